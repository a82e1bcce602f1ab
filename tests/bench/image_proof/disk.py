"""How much a build holds on a node's own disk, at most."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tests.stack.harness import Stack
from tests.waiting import wait_for

NODES = ("demo-node1", "demo-node2")
BUILD_FOLDER = "/tmp"
INTERVAL_S = 2.0


class DiskWatch:
    """Measures the folder of builds on both nodes until it is closed; `peak_bytes` is beyond what it held before.

    stack: of this thread alone.
    """

    def __init__(self, stack: Stack, nodes: Sequence[str] = NODES) -> None:
        self.peak_bytes = 0
        self._stack = stack
        self._before = {node: self._used(node) for node in nodes}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            for node, before in self._before.items():
                self.peak_bytes = max(self.peak_bytes, self._used(node) - before)

    def _used(self, node: str) -> int:
        """Return the bytes of the folder. Files may vanish meanwhile, which `du` takes for a failure."""
        # Docker loses the output of a short command now and then
        measured = wait_for(lambda: self._stack.on(node, ["du", "-sxk", BUILD_FOLDER], user="root").stdout)
        return used_bytes(measured)


def used_bytes(output: str) -> int:
    """Parse the output of `du -sk` for one folder. Raises ValueError for any other."""
    kib, _, _ = output.partition("\t")
    return int(kib) * 1024
