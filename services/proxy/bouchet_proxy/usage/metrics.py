"""The metrics of this process, in a Prometheus registry of its own."""

from __future__ import annotations

from collections.abc import Iterator

from bouchet_core.usage import UsageRecord
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from .request import ActiveRequests

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()
# seconds until the first byte; a prompt of 100,000 tokens that is not in the prefix cache takes a minute
FIRST_BYTE_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class ProxyMetrics(Collector):
    """Counts requests since the process started. One thread counts at a time."""

    def __init__(self, active: ActiveRequests) -> None:
        self._registry = registry = CollectorRegistry()
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
        self._clamped = Counter(
            "bouchet_clamped_requests_total",
            "Requests whose max_tokens exceeded the context window.",
            ("model",),
            registry=registry,
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
        streams = Gauge("bouchet_streams_open", "Streams that have begun and not ended.", registry=registry)
        streams.set_function(lambda: active.streams)
        waiting = Gauge("bouchet_requests_held", "Requests that wait for a model to be ready.", registry=registry)
        waiting.set_function(lambda: active.waiting)

    def count(self, record: UsageRecord, clamped: bool) -> None:
        """Add a request that has ended. clamped: its max_tokens exceeded the context window."""
        self._requests.labels(record.endpoint, record.model, str(record.status)).inc()
        for kind in ("input", "cached", "output"):
            if amount := getattr(record, kind):
                self._tokens.labels(record.model, kind).inc(amount)
        if record.error:
            self._errors.labels(record.error).inc()
        if clamped:
            self._clamped.labels(record.model).inc()
        if record.first_ms is not None:
            self._first_byte.labels(record.endpoint, record.model).observe(record.first_ms / 1000)

    def count_rejected(self, endpoint: str, kind: str, status: int) -> None:
        """Add a request that was rejected before its caller was known."""
        self._requests.labels(endpoint, "", str(status)).inc()
        self._errors.labels(kind).inc()

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
