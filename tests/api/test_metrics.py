"""/metrics, read by Prometheus' own parser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
from bouchet_core.figures import parse_figures
from bouchet_core.tasks import HEARTBEAT
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.running_api import RunningApi
from tests.waiting import wait_for

# of metrics that have tests of their own
SUBJECTS = ("bouchet_ledger", "bouchet_gpu_hours", "bouchet_charge")
WAITING = ("submitting", "queued", "starting", "ready", "draining", "parked")


def read(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Return the values by name and label."""
    answer = client.get("/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, "".join(s.labels.values())): s.value for family in families for s in family.samples}


def test_metrics_count_deployments_and_the_tunnel(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.tunnel |= {"reconnects": 2, "round_trip_ms": 12.5, "bytes_up": 10_000_001, "bytes_down": 7}
    live_api.gateway.tunnel |= {"open_channels": 3}
    client.post("/v1/deployments", json={"model": "Qwen/Qwen3-32B"}).raise_for_status()
    live_api.store.beat(HEARTBEAT, 10)
    own = {key: value for key, value in read(client).items() if not key[0].startswith(SUBJECTS)}
    assert own == {
        **{("bouchet_deployments", phase): 0 for phase in WAITING},
        ("bouchet_deployments", "requested"): 1,
        ("bouchet_worker_alive", ""): 1,
        ("bouchet_gateway_alive", ""): 1,
        **{("bouchet_tunnel_state", state): 0 for state in ("down", "connecting", "needs_human", "refused")},
        ("bouchet_tunnel_state", "up"): 1,
        ("bouchet_tunnel_open_channels", ""): 3,
        ("bouchet_tunnel_reconnects_total", ""): 2,
        ("bouchet_tunnel_sent_bytes_total", ""): 10_000_001,
        ("bouchet_tunnel_received_bytes_total", ""): 7,
        ("bouchet_tunnel_round_trip_seconds", ""): 0.0125,
    }


def test_metrics_declare_the_type_of_each_counter_and_gauge(client: httpx.Client) -> None:
    page = client.get("/metrics").text
    assert "# TYPE bouchet_tunnel_reconnects_total counter\n" in page
    assert "# TYPE bouchet_deployments gauge\n" in page


def test_metrics_without_gateway_leave_out_the_tunnel(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.mute = True
    seen = read(client)
    assert seen[("bouchet_gateway_alive", "")] == 0
    assert seen[("bouchet_worker_alive", "")] == 0
    assert not [name for name, _ in seen if name.startswith("bouchet_tunnel")]


def test_metrics_of_the_ledger_say_that_it_works(client: httpx.Client) -> None:
    seen = wait_for(lambda: found if (found := read(client))[("bouchet_ledger_up", "")] else None)
    assert seen[("bouchet_ledger_waiting_entries", "")] >= 0
    assert {label for name, label in seen if name == "bouchet_gpu_hours_today"} == {
        "starting", "serving", "idle", "draining",
    }  # fmt: skip


def test_metrics_of_a_job_have_its_labels_and_the_newest_names(client: httpx.Client, live_api: RunningApi) -> None:
    page = "vllm:num_requests_running 3\nvllm:gpu_cache_usage_perc 0.5\nvllm:generation_tokens_total 12\n"
    figures = parse_figures(page, deployment="d1", job="bouchet-d1-1", at=datetime.now(UTC), model="mine")
    assert figures is not None
    live_api.store.figures.put([figures])
    labels = "d1bouchet-d1-1mine"
    seen = read(client)
    assert seen[("vllm:num_requests_running", labels)] == 3
    assert seen[("vllm:kv_cache_usage_perc", labels)] == 0.5
    assert seen[("vllm:generation_tokens_total", labels)] == 12
    old = figures.model_copy(update={"at": datetime.now(UTC) - timedelta(minutes=5)})
    live_api.store.figures.put([old])
    assert ("vllm:num_requests_running", labels) not in read(client)
