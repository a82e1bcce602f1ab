"""Threads that keep the routing table and the table of API keys current.

A change in the store wakes them at once; they also read at intervals, in case a notification was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store

from .api_keys import KeyTable
from .routing.table import NOT_LOADED, RoutingTable, build_table

ROUTES_REREAD_S, ROUTES_RETRY_S = 3.0, 1.0
# a revoked key is rejected after this, even when the notification was lost
KEYS_REREAD_S, KEYS_RETRY_S = 1.5, 0.5

log = logging.getLogger(__name__)


class RefreshThread(ABC):
    """Owns the thread. While the store does not answer, the last value stays and the log has one line about it.

    reread_s: how long a change without a notification can go unnoticed.
    """

    def __init__(self, subject: str, *, reread_s: float, retry_s: float) -> None:
        self._subject, self._reread_s, self._retry_s = subject, reread_s, retry_s
        self._stopping = threading.Event()
        self._available = True
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
        self._attempt(self._refresh)
        self._thread.start()

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
        self._refresh()
        self._wait_for_change(seen, self._reread_s)

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Return False where the store did not answer."""
        try:
            action()
        except StoreUnavailableError as exc:
            if self._available:
                log.warning("cannot refresh the %s, the last one stays in use: %s", self._subject, exc)
            self._available = False
            return False
        if not self._available:
            log.info("the store answers again; the %s is current", self._subject)
        self._available = True
        return True


class RoutingTableThread(RefreshThread):
    """`table` is always complete: the last one that could be read, NOT_LOADED before the first."""

    def __init__(self, store: Store, catalog: Mapping[str, str]) -> None:
        super().__init__("routing table", reread_s=ROUTES_REREAD_S, retry_s=ROUTES_RETRY_S)
        self._store, self._catalog = store, catalog
        self.table: RoutingTable = NOT_LOADED

    def _refresh(self) -> None:
        self.table = build_table(self._store.live(), self._catalog)

    def _last_change(self) -> str:
        return self._store.last_event()

    def _wait_for_change(self, after: str, wait_s: float) -> None:
        self._store.events(after, wait_s=wait_s, limit=1)


class KeyTableThread(RefreshThread):
    """`table` is always complete: the last one that could be read, only the owner's key before the first."""

    def __init__(self, store: Store, owner_key: str) -> None:
        super().__init__("table of API keys", reread_s=KEYS_REREAD_S, retry_s=KEYS_RETRY_S)
        self._store = store
        self.table = KeyTable(owner_key.encode())

    def _refresh(self) -> None:
        self.table = self.table.with_keys(self._store.api_keys.all(), time.monotonic)

    def _last_change(self) -> str:
        return self._store.api_keys.last_change()

    def _wait_for_change(self, after: str, wait_s: float) -> None:
        self._store.api_keys.wait_for_change(after, wait_s)
