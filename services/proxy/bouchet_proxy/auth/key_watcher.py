"""Keeps the table of keys up to date."""

from __future__ import annotations

import time

from bouchet_core.store import Store

from bouchet_proxy.refresh import Watcher

from .api_keys import KeyTable

# a revoked key opens nothing after this, even when the word of it was lost
REREAD_S = 1.5
RETRY_S = 0.5


class KeyWatcher(Watcher):
    """`table` is always whole: the last one that could be read, the owner's key alone before."""

    def __init__(self, store: Store, owner_key: str) -> None:
        super().__init__("table of keys", reread_s=REREAD_S, retry_s=RETRY_S)
        self._store = store
        self.table = KeyTable(owner_key.encode())

    def _renew(self) -> None:
        self.table = self.table.renewed(self._store.api_keys.all(), time.monotonic)

    def _last_change(self) -> str:
        return self._store.api_keys.last_change()

    def _wait_for_change(self, after: str, wait_s: float) -> None:
        self._store.api_keys.wait_for_change(after, wait_s)
