"""Keeps the routing table up to date: events of the store wake it, and it reads the live records anew."""

from __future__ import annotations

from collections.abc import Mapping

from bouchet_core.store import Store

from bouchet_proxy.refresh import Watcher

from .table import UNKNOWN, RoutingTable, build_table

REREAD_S = 3.0
RETRY_S = 1.0


class TableWatcher(Watcher):
    """`table` is always whole: the last one that could be read, UNKNOWN before the first."""

    def __init__(self, store: Store, catalog: Mapping[str, str]) -> None:
        super().__init__("routing table", reread_s=REREAD_S, retry_s=RETRY_S)
        self._store, self._catalog = store, catalog
        self.table: RoutingTable = UNKNOWN

    def _renew(self) -> None:
        self.table = build_table(self._store.live(), self._catalog)

    def _last_change(self) -> str:
        return self._store.last_event()

    def _wait_for_change(self, after: str, wait_s: float) -> None:
        self._store.events(after, wait_s=wait_s, limit=1)
