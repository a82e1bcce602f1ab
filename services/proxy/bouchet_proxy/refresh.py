"""Threads that keep the routing table and the table of API keys current.

A change in the store wakes them at once; they also read at intervals, in case a notification was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store

from .api_keys import KeyTable
from .routing.table import NOT_LOADED, RoutingTable, build_table

ROUTES_REREAD_S, ROUTES_RETRY_S = 3.0, 1.0
# a revoked key is rejected after this, even when the notification was lost
KEYS_REREAD_S, KEYS_RETRY_S = 1.5, 0.5
# a value that was not renewed for this long is reported; several times what a restart of Redis takes
STALE_S = 60.0

log = logging.getLogger(__name__)


class RefreshThread(ABC):
    """Owns the thread. While the value cannot be renewed, the last one stays and the log has one entry about it.

    reread_s: how long a change without a notification can go unnoticed. stale_s: the age from which on the value is
    reported by `problem`.
    """

    def __init__(self, subject: str, *, reread_s: float, retry_s: float, stale_s: float) -> None:
        self._subject, self._reread_s, self._retry_s, self._stale_s = subject, reread_s, retry_s, stale_s
        self._stopping = threading.Event()
        self._renewed_at = time.monotonic()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=subject, daemon=True)

    @abstractmethod
    def _refresh(self) -> None:
        """Read the value from the store. Raises StoreUnavailableError, as the other two do."""

    @abstractmethod
    def _last_change(self) -> str:
        """Return the id of the newest change."""

    @abstractmethod
    def _wait_for_change(self, after: str, wait_s: float) -> None:
        """Return when there is a newer change, or after wait_s."""

    def start(self) -> None:
        """Read once, if the store answers, and start the thread."""
        self._attempt(self._renew)
        self._thread.start()

    @property
    def is_stale(self) -> bool:
        """Whether the value has not been renewed for too long."""
        return time.monotonic() - self._renewed_at > self._stale_s

    def problem(self) -> str:
        """Return why the value is stale, '' if it is not."""
        if not self.is_stale:
            return ""
        age_s, reason = time.monotonic() - self._renewed_at, self._error or "no attempt has ended"
        return f"the {self._subject} was not renewed for {age_s:.0f} s: {reason}"

    def stop(self) -> None:
        """Stop the thread; it may take reread_s to notice."""
        self._stopping.set()
        self._thread.join(timeout=self._reread_s + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._attempt(self._step):
                self._stopping.wait(self._retry_s)

    def _step(self) -> None:
        seen = self._last_change()
        self._renew()
        self._wait_for_change(seen, self._reread_s)

    def _renew(self) -> None:
        self._refresh()
        self._renewed_at = time.monotonic()

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Return False where it failed. Whatever the failure is: without its thread, the value would never change."""
        try:
            action()
        except StoreUnavailableError as exc:
            if self._error is None:
                log.warning("cannot refresh the %s, the last one stays in use: %s", self._subject, exc)
            self._error = exc
            return False
        except Exception as exc:
            if not isinstance(self._error, type(exc)):
                log.exception("cannot refresh the %s, the last one stays in use", self._subject)
            self._error = exc
            return False
        if self._error is not None:
            log.info("the store answers again; the %s is current", self._subject)
        self._error = None
        return True


class RoutingTableThread(RefreshThread):
    """`table` is always complete: the last one that could be read, NOT_LOADED before the first."""

    def __init__(self, store: Store, catalog: Mapping[str, str], stale_s: float = STALE_S) -> None:
        super().__init__("routing table", reread_s=ROUTES_REREAD_S, retry_s=ROUTES_RETRY_S, stale_s=stale_s)
        self._store, self._catalog = store, catalog
        self.table: RoutingTable = NOT_LOADED
        # when the records of the table were read, or a little before
        self.read_at: datetime | None = None

    def _refresh(self) -> None:
        read_at = datetime.now(UTC)
        self.table = build_table(self._store.live(), self._catalog)
        self.read_at = read_at

    def _last_change(self) -> str:
        return self._store.last_event()

    def _wait_for_change(self, after: str, wait_s: float) -> None:
        self._store.events(after, wait_s=wait_s, limit=1)


class KeyTableThread(RefreshThread):
    """`table` is always complete: the last one that could be read, only the owner's key before the first.

    It stays in use while Redis does not answer. If it is stale although Redis answers, a revoked key would be valid for
    ever: then it has only the owner's key, too.
    """

    def __init__(self, store: Store, owner_key: str, stale_s: float = STALE_S) -> None:
        super().__init__("table of API keys", reread_s=KEYS_REREAD_S, retry_s=KEYS_RETRY_S, stale_s=stale_s)
        self._store = store
        self._table = self._owner_only = KeyTable(owner_key.encode())

    @property
    def table(self) -> KeyTable:
        """The table to check keys with."""
        if self.is_stale and not isinstance(self._error, StoreUnavailableError):
            return self._owner_only
        return self._table

    def _refresh(self) -> None:
        self._table = self._table.with_keys(self._store.api_keys.all(), time.monotonic)

    def _last_change(self) -> str:
        return self._store.api_keys.last_change()

    def _wait_for_change(self, after: str, wait_s: float) -> None:
        self._store.api_keys.wait_for_change(after, wait_s)
