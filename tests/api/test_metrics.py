"""/metrics, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.running_api import KEY, RunningApi


@pytest.fixture
def client(live_api: RunningApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live_api.url, headers={"x-api-key": KEY}, timeout=60, trust_env=False) as client:
        yield client


def read(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Values by name and label."""
    answer = client.get("/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, "".join(s.labels.values())): s.value for family in families for s in family.samples}


def test_deployments_and_the_tunnel_are_counted(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.tunnel |= {"reconnects": 2, "round_trip_ms": 12.5, "bytes_up": 10_000_001, "bytes_down": 7}
    client.post("/v1/deployments", json={"model": "Qwen/Qwen3-32B"}).raise_for_status()
    live_api.state.store.beat("worker", 10)
    seen = read(client)
    assert seen[("bouchet_deployments", "requested")] == 1
    assert seen[("bouchet_deployments", "ready")] == 0
    assert seen[("bouchet_tunnel_state", "up")] == 1
    assert seen[("bouchet_tunnel_state", "down")] == 0
    assert seen[("bouchet_tunnel_reconnects_total", "")] == 2
    assert seen[("bouchet_tunnel_sent_bytes_total", "")] == 10_000_001
    assert seen[("bouchet_tunnel_round_trip_seconds", "")] == 0.0125
    assert seen[("bouchet_worker_alive", "")] == 1


def test_a_gateway_that_is_away_is_a_metric_too(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.mute = True
    seen = read(client)
    assert seen[("bouchet_gateway_alive", "")] == 0
    assert ("bouchet_tunnel_state", "up") not in seen


def test_a_gateway_of_another_version_is_no_crash(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.tunnel = {"state": "what nobody knows"}
    answer = client.get("/v1/tunnel")
    assert (answer.status_code, answer.json()["kind"]) == (503, "gateway_unreachable")
    assert "make up" in answer.json()["detail"]
