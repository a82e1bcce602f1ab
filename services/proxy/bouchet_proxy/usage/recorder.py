"""A background thread that turns finished requests into usage records and metrics.

The metrics are those of this process, in a Prometheus registry of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from bouchet_core.errors import StoreError
from bouchet_core.store import Store
from bouchet_core.usage import UsageRecord
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from .request import ActiveRequests, RequestUsage

# how long a finished request may be missing from the sums in the store; /metrics is always current
FLUSH_S = 1.0
BATCH_SIZE = 500
# records kept while Redis is unavailable; about 400 bytes each
MAX_PENDING = 20_000

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()
# seconds until the first byte; a prompt of 100,000 tokens that is not in the prefix cache takes a minute
FIRST_BYTE_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Labelled = TypeVar("Labelled", Counter, Histogram)

log = logging.getLogger(__name__)


class UsageRecorder:
    """Owns the thread. `add` costs a microsecond or two and never fails. measure: takes each record."""

    def __init__(self, store: Store, secret: str, measure: Callable[[UsageRecord], None] = lambda _: None) -> None:
        self._store, self._secret, self._measure = store, secret.encode(), measure
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
                self._measure(record)
                if len(self._pending) < MAX_PENDING:
                    self._pending.append(record)
                else:
                    self._metrics.count_dropped()

    def _write(self, batch: list[UsageRecord]) -> bool:
        try:
            self._store.usage.add(batch)
        except StoreError as exc:
            if self._available:
                log.warning("cannot write usage records, they are kept in memory: %s", exc)
            self._available = False
            return False
        self._available = True
        return True


class ProxyMetrics(Collector):
    """Counts requests since the process started. One thread counts at a time."""

    def __init__(self, active: ActiveRequests) -> None:
        self._registry = registry = CollectorRegistry()
        self._children: defaultdict[Any, dict[tuple[str, ...], Any]] = defaultdict(dict)
        self._requests = Counter(
            "bouchet_requests_total",
            "Requests that have ended; status 0: the client disconnected before a response.",
            ("endpoint", "model", "status"),
            registry=registry,
        )
        self._tokens = Counter(
            "bouchet_tokens_total",
            "Tokens; cached ones were found in the prefix cache.",
            ("model", "kind"),
            registry=registry,
        )
        self._errors = Counter("bouchet_errors_total", "Requests that failed.", ("kind",), registry=registry)
        self._clamped = _per_model(
            "bouchet_clamped_requests_total", "Requests whose max_tokens exceeded the context window.", registry
        )
        self._continued = _per_model(
            "bouchet_continued_answers_total",
            "Answers that another job went on with, because their own had ended.",
            registry,
        )
        self._dropped = Counter(
            "bouchet_usage_records_dropped_total",
            "Usage records lost because Redis was unavailable for too long.",
            registry=registry,
        )
        self._first_byte = Histogram(
            "bouchet_time_to_first_byte_seconds",
            "From sending a streaming request to the model to the first byte of its response.",
            ("endpoint", "model"),
            buckets=FIRST_BYTE_BUCKETS_S,
            registry=registry,
        )
        self._add_gauges(active)

    def _add_gauges(self, active: ActiveRequests) -> None:
        registry = self._registry
        streams = Gauge("bouchet_streams_open", "Streams that have begun and not ended.", registry=registry)
        streams.set_function(lambda: active.streams)
        waiting = Gauge("bouchet_requests_held", "Requests that wait for a model to be ready.", registry=registry)
        waiting.set_function(lambda: active.waiting)
        cut = Gauge("bouchet_requests_cut", "Requests that wait for a lost connection to go on.", registry=registry)
        cut.set_function(lambda: active.cut)

    def count(self, record: UsageRecord, clamped: bool) -> None:
        """Add a request that has ended. clamped: its max_tokens exceeded the context window."""
        endpoint, model = record.endpoint, record.model
        self._child(self._requests, endpoint, model, str(record.status)).inc()
        for kind in ("input", "cached", "output"):
            if amount := getattr(record, kind):
                self._child(self._tokens, model, kind).inc(amount)
        if record.error:
            self._child(self._errors, record.error).inc()
        if clamped:
            self._child(self._clamped, model).inc()
        if record.continued:
            self._child(self._continued, model).inc(record.continued)
        if record.first_ms is not None:
            self._child(self._first_byte, endpoint, model).observe(record.first_ms / 1000)

    def count_rejected(self, endpoint: str, kind: str, status: int) -> None:
        """Add a request that was rejected before its caller was known."""
        self._child(self._requests, endpoint, "", str(status)).inc()
        self._child(self._errors, kind).inc()

    def _child(self, metric: Labelled, *labels: str) -> Labelled:
        """Return the metric with these labels; cached, because `labels` takes longer than counting."""
        children = self._children[metric]
        if (child := children.get(labels)) is None:
            child = children[labels] = metric.labels(*labels)
        return child

    def count_dropped(self) -> None:
        """Add a usage record that could not be kept."""
        self._dropped.inc()

    def collect(self) -> Iterator[Metric]:
        """Collect all families, without the `_created` times that prometheus_client adds to each counter."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def render(self) -> bytes:
        """Render all metrics in Prometheus' text format."""
        return generate_latest(self)


def _per_model(name: str, description: str, registry: CollectorRegistry) -> Counter:
    return Counter(name, description, ("model",), registry=registry)
