"""Takes the tallies of requests that have ended, counts them, and keeps them in the store: in a thread, off the way."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store
from bouchet_core.usage import UsageRecord

from .metrics import Metrics
from .request import Live, Tally

# how long a request may be missing from the sums; /metrics is always current
FLUSH_S = 1.0
BATCH = 500
# kept while Redis is away; about 400 bytes each
MOST_WAITING = 20_000

log = logging.getLogger(__name__)


class Recorder:
    """Owns the thread. `take` costs a microsecond or two and never fails."""

    def __init__(self, store: Store, secret: str) -> None:
        self._store, self._secret = store, secret.encode()
        self.live = Live()
        self._metrics = Metrics(self.live)
        self._ended: deque[tuple[float, Tally]] = deque()
        self._waiting: deque[UsageRecord] = deque()
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._available = True
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Writes what is left, if the store answers, and ends the thread."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def take(self, tally: Tally) -> None:
        """A request has ended; its last byte is out."""
        tally.closed()
        self._ended.append((time.time(), tally))

    def refused(self, endpoint: str, kind: str, status: int) -> None:
        """A request of nobody known was turned away."""
        with self._counting:
            self._metrics.refused(endpoint, kind, status)

    def metrics(self) -> bytes:
        """The counters' text, with everything that has ended by now."""
        self._count()
        with self._counting:
            return self._metrics.text()

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        self._count()
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            if not self._written(batch):
                return
            for _ in batch:
                self._waiting.popleft()

    def _count(self) -> None:
        """Turns tallies into records. Asked by the thread and for /metrics."""
        with self._counting:
            while self._ended:
                at, tally = self._ended.popleft()
                record = tally.record(at, self._secret)
                self._metrics.count(record, tally.clamped)
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(record)
                else:
                    self._metrics.dropped += 1

    def _written(self, batch: list[UsageRecord]) -> bool:
        try:
            self._store.usage.add(batch)
        except StoreUnavailableError as exc:
            if self._available:
                log.warning("usage is kept here for now: %s", exc)
            self._available = False
            return False
        self._available = True
        return True
