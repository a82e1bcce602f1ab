"""A thread that keeps what was read from the store up to date: woken by changes, and looking by itself now and then."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from bouchet_core.errors import StoreUnavailableError

log = logging.getLogger(__name__)


class Watcher(ABC):
    """Owns the thread. What it keeps stays as it was last read while the store does not answer; the log says so once.

    A change wakes the thread at once; reread_s is how long one without a word can stay unseen.
    """

    def __init__(self, subject: str, *, reread_s: float, retry_s: float) -> None:
        self._subject, self._reread_s, self._retry_s = subject, reread_s, retry_s
        self._stopping = threading.Event()
        self._available = True
        self._thread = threading.Thread(target=self._run, name=subject, daemon=True)

    @abstractmethod
    def _renew(self) -> None:
        """Reads it. Raises StoreUnavailableError, as the others do."""

    @abstractmethod
    def _last_change(self) -> str:
        """Names the newest change."""

    @abstractmethod
    def _wait_for_change(self, after: str, wait_s: float) -> None:
        """Returns when there is a newer one, or after wait_s."""

    def start(self) -> None:
        """Reads once, if the store answers, and starts the thread."""
        self._tried(self._renew)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it may take reread_s to notice."""
        self._stopping.set()
        self._thread.join(timeout=self._reread_s + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._tried(self._step):
                self._stopping.wait(self._retry_s)

    def _step(self) -> None:
        seen = self._last_change()
        self._renew()
        self._wait_for_change(seen, self._reread_s)

    def _tried(self, action: Callable[[], None]) -> bool:
        """False where the store did not answer."""
        try:
            action()
        except StoreUnavailableError as exc:
            if self._available:
                log.warning("the %s stays as it is: %s", self._subject, exc)
            self._available = False
            return False
        if not self._available:
            log.info("the store answers again; the %s is current", self._subject)
        self._available = True
        return True
