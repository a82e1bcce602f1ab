"""Counters of this process, and their text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from bouchet_core.usage import UsageRecord

from .request import Live

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
# seconds until the first byte; a cold prompt of 100,000 tokens takes a minute
BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]


class Metrics:
    """Everything since the process began. One thread counts at a time."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._requests: Counter[Labels] = Counter()
        self._tokens: Counter[Labels] = Counter()
        self._errors: Counter[Labels] = Counter()
        self._clamped: Counter[Labels] = Counter()
        self._first: dict[Labels, tuple[list[int], float]] = {}
        self.dropped = 0

    def count(self, record: UsageRecord, clamped: bool) -> None:
        """Adds one request that has ended."""
        model = ("model", record.model)
        self._requests[("endpoint", record.endpoint), model, ("status", str(record.status))] += 1
        for kind in ("input", "cached", "output"):
            if amount := getattr(record, kind):
                self._tokens[model, ("kind", kind)] += amount
        if record.error:
            self._errors[(("kind", record.error),)] += 1
        if clamped:
            self._clamped[(model,)] += 1
        if record.first_ms is not None:
            self._observe((("endpoint", record.endpoint), model), record.first_ms / 1000)

    def refused(self, endpoint: str, kind: str, status: int) -> None:
        """Adds a request of nobody known."""
        self._requests[("endpoint", endpoint), ("model", ""), ("status", str(status))] += 1
        self._errors[(("kind", kind),)] += 1

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        lines: list[str] = []
        for name, kind, about, samples in self._families():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            lines += [f"{sample}{_labels(labels)} {_number(value)}" for sample, labels, value in samples]
        return "\n".join([*lines, ""]).encode()

    def _observe(self, labels: Labels, seconds: float) -> None:
        counts, total = self._first.setdefault(labels, ([0] * (len(BOUNDS) + 1), 0.0))
        counts[bisect_left(BOUNDS, seconds)] += 1
        self._first[labels] = counts, total + seconds

    def _families(self) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
        name = "bouchet_requests_total"
        yield (
            name,
            "counter",
            "Requests that have ended; status 0: the client left before.",
            _samples(name, self._requests),
        )
        name = "bouchet_tokens_total"
        yield name, "counter", "Tokens; cached ones were found in the prefix cache.", _samples(name, self._tokens)
        name = "bouchet_errors_total"
        yield name, "counter", "Requests that ended badly.", _samples(name, self._errors)
        name = "bouchet_clamped_requests_total"
        yield name, "counter", "Requests for a longer answer than the window.", _samples(name, self._clamped)
        name = "bouchet_usage_records_dropped_total"
        yield name, "counter", "Usage records lost because Redis was away too long.", [(name, (), self.dropped)]
        name = "bouchet_streams_open"
        yield name, "gauge", "Streams that have begun and not ended.", [(name, (), self._live.streams)]
        name = "bouchet_requests_held"
        yield name, "gauge", "Requests that wait for a model to be ready.", [(name, (), self._live.held)]
        name = "bouchet_time_to_first_byte_seconds"
        yield name, "histogram", "From asking the model for a stream to its first byte.", self._histogram(name)

    def _histogram(self, name: str) -> Iterator[Sample]:
        for labels, (counts, total) in sorted(self._first.items()):
            below = 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
                below += count
                yield f"{name}_bucket", (*labels, ("le", bound)), below
            yield f"{name}_sum", labels, total
            yield f"{name}_count", labels, below


def _samples(name: str, counter: Counter[Labels]) -> list[Sample]:
    return [(name, labels, value) for labels, value in sorted(counter.items())]


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(round(value, 6))
