"""Deployments and the tunnel in Prometheus' text format. Pure. What requests do is the proxy's to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bouchet_core.deployments import Phase
from bouchet_core.tunnel import TunnelState, TunnelStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Samples = Sequence[tuple[Mapping[str, str], float]]


def render(phases: Iterable[Phase], tunnel: TunnelStatus | None, *, worker_alive: bool) -> str:
    """The whole page. phases: of the live deployments; tunnel: None when the gateway could not be asked."""
    parts = [_deployments(phases), _gauge("bouchet_worker_alive", "Whether the worker's loop runs", worker_alive)]
    parts.append(_gauge("bouchet_gateway_alive", "Whether the tunnel gateway answers", tunnel is not None))
    if tunnel is not None:
        parts += _tunnel(tunnel)
    return "".join(parts)


def _deployments(phases: Iterable[Phase]) -> str:
    counted = Counter(phases)
    samples = [({"phase": phase.value}, counted[phase]) for phase in Phase if phase is not Phase.ENDED]
    return _metric("bouchet_deployments", "gauge", "Live deployments by phase", samples)


def _tunnel(tunnel: TunnelStatus) -> list[str]:
    states = [({"state": state.value}, state is tunnel.state) for state in TunnelState]
    parts = [
        _metric("bouchet_tunnel_state", "gauge", "1 for the state of the SSH connection", states),
        _gauge("bouchet_tunnel_open_channels", "Commands, files and forwards open now", tunnel.open_channels),
        _counter("bouchet_tunnel_reconnects_total", "Logins after the first", tunnel.reconnects),
        _counter("bouchet_tunnel_sent_bytes_total", "Bytes towards vLLM", tunnel.bytes_up),
        _counter("bouchet_tunnel_received_bytes_total", "Bytes from vLLM", tunnel.bytes_down),
    ]
    if tunnel.round_trip_ms is not None:
        words = "To the login node and back"
        parts.append(_gauge("bouchet_tunnel_round_trip_seconds", words, tunnel.round_trip_ms / 1000))
    return parts


def _gauge(name: str, words: str, value: float) -> str:
    return _metric(name, "gauge", words, [({}, value)])


def _counter(name: str, words: str, value: float) -> str:
    return _metric(name, "counter", words, [({}, value)])


def _metric(name: str, kind: str, words: str, samples: _Samples) -> str:
    lines = [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"{name}{{{shown}}} {float(value)!r}" if shown else f"{name} {float(value)!r}")
    return "\n".join(lines) + "\n"
