"""Keeps the routing table up to date: a thread that waits for events of the store and reads the live records anew."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from bouchet_core.errors import StoreUnavailable
from bouchet_core.store import Store

from .routing import UNKNOWN, RoutingTable, build_table

# an event wakes the thread at once; this is how long a change without one can stay unseen
REREAD_S = 3.0
RETRY_S = 1.0

log = logging.getLogger(__name__)


class TableWatcher:
    """Owns the thread. `table` is always whole: the last one that could be read, UNKNOWN before the first."""

    def __init__(self, store: Store, catalog: Mapping[str, str]) -> None:
        self._store, self._catalog = store, catalog
        self._stopping = threading.Event()
        self._available = True
        self._thread = threading.Thread(target=self._run, name="routing-table", daemon=True)
        self.table: RoutingTable = UNKNOWN

    def start(self) -> None:
        """Reads the table once, if the store answers, and starts the thread."""
        self._try(self._refresh)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it may take REREAD_S to notice."""
        self._stopping.set()
        self._thread.join(timeout=REREAD_S + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._try(self._step):
                self._stopping.wait(RETRY_S)

    def _step(self) -> None:
        after = self._store.last_event()
        self._refresh()
        self._store.events(after, wait_s=REREAD_S, limit=1)

    def _refresh(self) -> None:
        self.table = build_table(self._store.live(), self._catalog)

    def _try(self, action: object) -> bool:
        assert callable(action)
        try:
            action()
        except StoreUnavailable as exc:
            if self._available:
                log.warning("the routing table stays as it is: %s", exc)
            self._available = False
            return False
        if not self._available:
            log.info("the store answers again; the routing table is current")
        self._available = True
        return True
