"""Live figures of a job: what its vLLM reports on /metrics, cut down to what people look at.

The worker reads the page through the job's slot and stores the figures; the API shows them, and exports them on its own
/metrics. Counters count since the server's start, so rates are differences of two figures of one job.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from itertools import islice

from pydantic import ConfigDict, Field

from .values import FrozenModel

# field -> names of vLLM's metric; the second is that of versions before it was renamed
SUMS: Mapping[str, tuple[str, ...]] = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "prefix_queries": ("prefix_cache_queries_total", "gpu_prefix_cache_queries_total"),
    "prefix_hits": ("prefix_cache_hits_total", "gpu_prefix_cache_hits_total"),
    "preemptions": ("num_preemptions_total",),
    "prompt_tokens": ("prompt_tokens_total",),
    "generation_tokens": ("generation_tokens_total",),
}
KV_SHARE = ("kv_cache_usage_perc", "gpu_cache_usage_perc")
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "first_token": ("time_to_first_token_seconds",),
    "between_tokens": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
}
FINISHED = "request_success_total"
# a server of others may report anything: what is kept of a page, and what a number is
REASON = re.compile(r"[a-z_]{1,40}")
MOST_REASONS, MOST_BOUNDS, MOST_COUNT = 20, 100, 1e18

_SAMPLE = re.compile(r"^vllm:([a-z_]+)(?:\{([^}\n]*)\})? (\S+)", re.MULTILINE)
_LABEL = re.compile(r'(le|finished_reason)="([^"]*)"')

# name, value of the label that matters -> sum over the engines of one server
Samples = Mapping[tuple[str, str], float]


class _Part(FrozenModel):
    """A part of the figures; what a newer version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class LatencyHistogram(_Part):
    """A histogram of seconds since the server's start."""

    bounds: tuple[float, ...] = Field(default=(), description="upper bounds of the buckets, without infinity")
    counts: tuple[float, ...] = Field(
        default=(), description="observations up to each bound, then all; one more than `bounds`, or none"
    )
    sum_s: float = 0.0

    @property
    def count(self) -> float:
        """The number of observations."""
        return self.counts[-1] if self.counts else 0.0

    def since(self, earlier: LatencyHistogram) -> LatencyHistogram:
        """Return the observations made after the earlier one; all of them if the server has restarted between."""
        if earlier.bounds != self.bounds or len(earlier.counts) != len(self.counts) or earlier.count > self.count:
            return self
        counts = tuple(max(0.0, now - then) for now, then in zip(self.counts, earlier.counts, strict=True))
        return LatencyHistogram(bounds=self.bounds, counts=counts, sum_s=max(0.0, self.sum_s - earlier.sum_s))

    def quantile(self, share: float) -> float | None:
        """Return the seconds below which that share of the observations is, as Prometheus interpolates it.

        None without observations; the highest bound if the result is above it.
        """
        if not self.bounds or self.count <= 0:
            return None
        rank, below, lower = share * self.count, 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count >= rank and count > below:
                return lower + (bound - lower) * (rank - below) / (count - below)
            below, lower = count, bound
        return self.bounds[-1]


class JobFigures(_Part):
    """What the vLLM of one job reported at one moment. All but `running`, `waiting` and `kv_share` are counters."""

    deployment: str = Field(description="id of the deployment")
    job: str = Field(description="name of the job")
    model: str = Field(default="", description="name that the deployment serves")
    at: datetime
    running: float = Field(default=0.0, description="requests being computed")
    waiting: float = Field(default=0.0, description="requests in the server's queue")
    kv_share: float | None = Field(default=None, description="used fraction of the KV cache, of the fullest engine")
    prefix_queries: float = Field(default=0.0, description="prompt tokens searched in the prefix cache")
    prefix_hits: float = Field(default=0.0, description="prompt tokens found there")
    preemptions: float = 0.0
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    finished: Mapping[str, float] = Field(default_factory=dict, description="requests that have ended, by reason")
    first_token: LatencyHistogram = Field(default=LatencyHistogram(), description="time to the first token")
    between_tokens: LatencyHistogram = Field(default=LatencyHistogram(), description="time between two tokens")


def parse_figures(page: str, *, deployment: str, job: str, at: datetime, model: str = "") -> JobFigures | None:
    """Parse vLLM's /metrics; None if the page has no metric of vLLM's. Engines of one server are added.

    A missing or odd value counts nothing: versions differ in what they report.
    """
    samples, kv_share = _read_samples(page)
    if not samples and kv_share is None:
        return None
    sums = {field: _first_sum(samples, names) for field, names in SUMS.items()}
    histograms = {field: _first_histogram(samples, names) for field, names in HISTOGRAMS.items()}
    reasons = ((label, value) for (name, label), value in samples.items() if name == FINISHED)
    finished = dict(islice(((label, value) for label, value in reasons if REASON.fullmatch(label)), MOST_REASONS))
    return JobFigures.model_validate(
        {
            "deployment": deployment,
            "job": job,
            "model": model,
            "at": at,
            **sums,
            **histograms,
            "kv_share": kv_share,
            "finished": finished,
        }
    )


def _read_samples(page: str) -> tuple[Samples, float | None]:
    """Return sums over the engines by name and label, and the highest use of a KV cache."""
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    kv_share: float | None = None
    for name, labels, printed in _SAMPLE.findall(page):
        try:
            value = float(printed)
        except ValueError:
            continue
        if not 0 <= value < MOST_COUNT:
            continue
        if name in KV_SHARE:
            kv_share = max(kv_share or 0.0, min(value, 1.0))
            continue
        label = _LABEL.search(labels) if labels else None
        sums[name, label[2] if label else ""] += value
    return sums, kv_share


def _first_sum(samples: Samples, names: tuple[str, ...]) -> float:
    return next((samples[name, ""] for name in names if (name, "") in samples), 0.0)


def _first_histogram(samples: Samples, names: tuple[str, ...]) -> LatencyHistogram:
    for name in names:
        buckets = {_bound(label): value for (key, label), value in samples.items() if key == f"{name}_bucket"}
        bounds = sorted(bound for bound in buckets if bound is not None)
        if bounds and bounds[-1] == math.inf and len(bounds) <= MOST_BOUNDS:
            counts = tuple(buckets[bound] for bound in bounds)
            return LatencyHistogram(bounds=tuple(bounds[:-1]), counts=counts, sum_s=samples.get((f"{name}_sum", ""), 0))
    return LatencyHistogram()


def _bound(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None
