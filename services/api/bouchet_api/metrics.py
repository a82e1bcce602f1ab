"""Deployments, worker, gateway and tunnel as Prometheus metrics. The proxy has the metrics of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from bouchet_core.deployments import Phase
from bouchet_core.tunnel import TunnelState, TunnelStatus
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def render_metrics(phases: Iterable[Phase], tunnel: TunnelStatus | None, *, worker_alive: bool) -> bytes:
    """Return the page for one scrape.

    `phases` are those of the live deployments; `tunnel` is None when the gateway does not answer.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(phases, tunnel, worker_alive))
    return generate_latest(registry)


class _Snapshot(Collector):
    """Metrics of one moment: the values are in Redis and at the gateway, so nothing is counted in this process."""

    def __init__(self, phases: Iterable[Phase], tunnel: TunnelStatus | None, worker_alive: bool) -> None:
        self._phases, self._tunnel, self._worker_alive = Counter(phases), tunnel, worker_alive

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics in the order of the page."""
        deployments = GaugeMetricFamily("bouchet_deployments", "Live deployments by phase", labels=["phase"])
        for phase in Phase:
            if phase is not Phase.ENDED:
                deployments.add_metric([phase.value], self._phases[phase])
        yield deployments
        yield GaugeMetricFamily("bouchet_worker_alive", "Whether the worker's loop runs", self._worker_alive)
        answers = self._tunnel is not None
        yield GaugeMetricFamily("bouchet_gateway_alive", "Whether the tunnel gateway answers", answers)
        if self._tunnel is not None:
            yield from _tunnel_metrics(self._tunnel)


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
