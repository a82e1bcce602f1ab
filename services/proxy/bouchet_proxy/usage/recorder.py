"""A background thread that turns finished requests into usage records and metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store
from bouchet_core.usage import UsageRecord

from .metrics import ProxyMetrics
from .request import ActiveRequests, RequestUsage

# how long a finished request may be missing from the sums in the store; /metrics is always current
FLUSH_S = 1.0
BATCH_SIZE = 500
# records kept while Redis is unavailable; about 400 bytes each
MAX_PENDING = 20_000

log = logging.getLogger(__name__)


class UsageRecorder:
    """Owns the thread. `add` costs a microsecond or two and never fails."""

    def __init__(self, store: Store, secret: str) -> None:
        self._store, self._secret = store, secret.encode()
        self.active = ActiveRequests()
        self._metrics = ProxyMetrics(self.active)
        self._finished: deque[tuple[float, RequestUsage]] = deque()
        self._pending: deque[UsageRecord] = deque()
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._available = True
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is pending, if the store answers, and stop the thread."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def add(self, usage: RequestUsage) -> None:
        """Add a request whose last byte has been sent."""
        usage.close()
        self._finished.append((time.time(), usage))

    def count_rejected(self, endpoint: str, kind: str, status: int) -> None:
        """Count a request that was rejected before its caller was known."""
        with self._counting:
            self._metrics.count_rejected(endpoint, kind, status)

    def render_metrics(self) -> bytes:
        """Render the metrics, with every request that has ended by now."""
        self._count()
        with self._counting:
            return self._metrics.render()

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        self._count()
        while self._pending:
            batch = [self._pending[index] for index in range(min(BATCH_SIZE, len(self._pending)))]
            if not self._write(batch):
                return
            for _ in batch:
                self._pending.popleft()

    def _count(self) -> None:
        """Turn finished requests into records. Called by the thread, and for /metrics."""
        with self._counting:
            while self._finished:
                at, usage = self._finished.popleft()
                record = usage.to_record(at, self._secret)
                self._metrics.count(record, usage.clamped)
                if len(self._pending) < MAX_PENDING:
                    self._pending.append(record)
                else:
                    self._metrics.count_dropped()

    def _write(self, batch: list[UsageRecord]) -> bool:
        try:
            self._store.usage.add(batch)
        except StoreUnavailableError as exc:
            if self._available:
                log.warning("cannot write usage records, they are kept in memory: %s", exc)
            self._available = False
            return False
        self._available = True
        return True
