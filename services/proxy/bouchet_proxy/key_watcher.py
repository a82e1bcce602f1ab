"""Keeps the table of keys up to date: a thread that waits for changes in the store and reads the keys anew."""

from __future__ import annotations

import logging
import threading
import time

from bouchet_core.errors import StoreUnavailable
from bouchet_core.store import Store

from .callers import KeyTable

# a change wakes the thread at once; this is how long one without a word can stay unseen
REREAD_S = 1.5
RETRY_S = 0.5

log = logging.getLogger(__name__)


class KeyWatcher:
    """Owns the thread. `table` is always whole: the last one that could be read, the owner's key alone before."""

    def __init__(self, store: Store, owner_key: str) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._available = True
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self.table = KeyTable(owner_key.encode())

    def start(self) -> None:
        """Reads the keys once, if the store answers, and starts the thread."""
        self._step(wait_s=0)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it may take REREAD_S to notice."""
        self._stopping.set()
        self._thread.join(timeout=REREAD_S + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._step(REREAD_S):
                self._stopping.wait(RETRY_S)

    def _step(self, wait_s: float) -> bool:
        """Reads the keys and waits for the next change. False where the store did not answer."""
        try:
            seen = self._store.access.last_change()
            self.table = self.table.renewed(self._store.access.all(), time.monotonic)
            if wait_s:
                self._store.access.wait_for_change(seen, wait_s)
        except StoreUnavailable as exc:
            if self._available:
                log.warning("the keys stay as they are: %s", exc)
            self._available = False
            return False
        if not self._available:
            log.info("the store answers again; the keys are current")
        self._available = True
        return True
