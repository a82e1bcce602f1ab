"""Deployments, jobs, their vLLM, the ledger and the tunnel as Prometheus metrics. The proxy has those of requests.

vLLM's metrics have the names of the pinned version, whatever version a job runs, and the labels deployment, job, model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bouchet_core.deployments import Deployment, Phase
from bouchet_core.figures import JobFigures, LatencyHistogram
from bouchet_core.tunnel import TunnelState, TunnelStatus
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from .ledger.gpu_views import GpuSummary

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
JOB_LABELS = ("deployment", "job", "model")
# field of JobFigures -> vLLM's name and what it is
GAUGES = {
    "running": ("vllm:num_requests_running", "Requests being computed"),
    "waiting": ("vllm:num_requests_waiting", "Requests in the server's queue"),
    "kv_share": ("vllm:kv_cache_usage_perc", "Used fraction of the KV cache, of the fullest engine"),
}
COUNTERS = {
    "prefix_queries": ("vllm:prefix_cache_queries", "Prompt tokens searched in the prefix cache"),
    "prefix_hits": ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache"),
    "preemptions": ("vllm:num_preemptions", "Requests that gave up their place in the KV cache"),
    "prompt_tokens": ("vllm:prompt_tokens", "Prompt tokens"),
    "generation_tokens": ("vllm:generation_tokens", "Generated tokens"),
}
HISTOGRAMS = {
    "first_token": ("vllm:time_to_first_token_seconds", "From a request's arrival to its first token"),
    "between_tokens": ("vllm:inter_token_latency_seconds", "Between two tokens of an answer"),
}


@dataclass(frozen=True)
class MetricsSnapshot:
    """What one scrape shows. tunnel: None when the gateway does not answer; gpu_today: None without a ledger."""

    records: Sequence[Deployment] = ()
    figures: Sequence[JobFigures] = ()
    tunnel: TunnelStatus | None = None
    worker_alive: bool = False
    ledger_works: bool = False
    waiting_entries: int | None = None
    lost_entries: int = 0
    gpu_today: GpuSummary | None = field(default=None)


def render_metrics(snapshot: MetricsSnapshot) -> bytes:
    """Return the page for one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry)


class _Snapshot(Collector):
    """Metrics of one moment: the values are in Redis and at the gateway, so nothing is counted in this process."""

    def __init__(self, snapshot: MetricsSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics in the order of the page."""
        found = self._snapshot
        phases = Counter(record.phase for record in found.records)
        deployments = GaugeMetricFamily("bouchet_deployments", "Live deployments by phase", labels=["phase"])
        for phase in Phase:
            if phase is not Phase.ENDED:
                deployments.add_metric([phase.value], phases[phase])
        yield deployments
        yield GaugeMetricFamily("bouchet_worker_alive", "Whether the worker's loop runs", found.worker_alive)
        answers = found.tunnel is not None
        yield GaugeMetricFamily("bouchet_gateway_alive", "Whether the tunnel gateway answers", answers)
        yield from _job_metrics(found.records)
        yield from _vllm_metrics(found.figures)
        yield from _ledger_metrics(found)
        if found.tunnel is not None:
            yield from _tunnel_metrics(found.tunnel)


def _job_metrics(records: Iterable[Deployment]) -> Iterator[Metric]:
    """Yield what the live jobs hold, and when they end."""
    gpus = GaugeMetricFamily("bouchet_job_gpus", "GPUs of a live job", labels=(*JOB_LABELS, "gpu_type", "phase"))
    ends = GaugeMetricFamily("bouchet_job_end_seconds", "When Slurm ends a job at the latest, Unix time",
                             labels=JOB_LABELS)  # fmt: skip
    for record in records:
        for job in record.live_jobs:
            labels = [record.id, job.name, record.names[0] if record.names else record.model]
            if job.placement is not None:
                gpus.add_metric([*labels, job.placement.gpu_type, job.phase.value], job.placement.held_gpus)
            if job.deadline is not None:
                ends.add_metric(labels, job.deadline.timestamp())
    yield gpus
    yield ends


def _vllm_metrics(figures: Sequence[JobFigures]) -> Iterator[Metric]:
    """Yield what each job's vLLM has reported."""
    for name, (metric, text) in GAUGES.items():
        gauge = GaugeMetricFamily(metric, text, labels=JOB_LABELS)
        for one in figures:
            if (value := getattr(one, name)) is not None:
                gauge.add_metric(_labels(one), value)
        yield gauge
    for name, (metric, text) in COUNTERS.items():
        counter = CounterMetricFamily(metric, text, labels=JOB_LABELS)
        for one in figures:
            counter.add_metric(_labels(one), getattr(one, name))
        yield counter
    finished = CounterMetricFamily("vllm:request_success", "Requests that have ended",
                                   labels=(*JOB_LABELS, "finished_reason"))  # fmt: skip
    for one in figures:
        for reason, count in sorted(one.finished.items()):
            finished.add_metric([*_labels(one), reason], count)
    yield finished
    yield from _latencies(figures)
    age = GaugeMetricFamily("bouchet_figures_time_seconds", "When a job's vLLM was read, Unix time", labels=JOB_LABELS)
    for one in figures:
        age.add_metric(_labels(one), one.at.timestamp())
    yield age


def _latencies(figures: Sequence[JobFigures]) -> Iterator[Metric]:
    for name, (metric, text) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(metric, text, labels=JOB_LABELS)
        for one in figures:
            _add_histogram(histogram, _labels(one), getattr(one, name))
        yield histogram


def _labels(figures: JobFigures) -> list[str]:
    return [figures.deployment, figures.job, figures.model]


def _add_histogram(family: HistogramMetricFamily, labels: Sequence[str], found: LatencyHistogram) -> None:
    if found.counts:
        bounds = [*map(str, found.bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, found.counts, strict=True)), found.sum_s)


def _ledger_metrics(found: MetricsSnapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("bouchet_ledger_up", "Whether the ledger's database works", found.ledger_works)
    if found.waiting_entries is not None:
        text = "Entries in Redis that are in no ledger yet"
        yield GaugeMetricFamily("bouchet_ledger_waiting_entries", text, found.waiting_entries)
    yield CounterMetricFamily("bouchet_ledger_lost_entries", "Entries that Redis had to drop", found.lost_entries)
    if found.gpu_today is None:
        return
    today = found.gpu_today
    hours = GaugeMetricFamily("bouchet_gpu_hours_today", "GPU hours of this day in UTC", labels=["use"])
    for use in ("starting", "serving", "idle", "draining"):
        hours.add_metric([use], getattr(today, f"{use}_hours"))
    yield hours
    charge = GaugeMetricFamily("bouchet_charge_today", "What they cost by the site's price table", labels=["unit"])
    if today.charge is not None:
        charge.add_metric([today.charge_unit], today.charge)
    yield charge


def _tunnel_metrics(tunnel: TunnelStatus) -> Iterator[Metric]:
    states = GaugeMetricFamily("bouchet_tunnel_state", "1 for the state of the SSH connection", labels=["state"])
    for state in TunnelState:
        states.add_metric([state.value], state is tunnel.state)
    yield states
    channels = tunnel.open_channels
    yield GaugeMetricFamily("bouchet_tunnel_open_channels", "Commands, files and forwards open now", channels)
    yield CounterMetricFamily("bouchet_tunnel_reconnects_total", "Logins after the first", tunnel.reconnects)
    yield CounterMetricFamily("bouchet_tunnel_sent_bytes_total", "Bytes towards vLLM", tunnel.bytes_up)
    yield CounterMetricFamily("bouchet_tunnel_received_bytes_total", "Bytes from vLLM", tunnel.bytes_down)
    if tunnel.round_trip_ms is not None:
        seconds = tunnel.round_trip_ms / 1000
        yield GaugeMetricFamily("bouchet_tunnel_round_trip_seconds", "To the login node and back", seconds)
