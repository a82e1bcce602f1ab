"""GET /v1/doctor: what is down is a failed check, and what lies behind it is unknown, never passed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_api.doctor import HEARTBEAT, tunnel_check
from bouchet_core.doctor import Verdict
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_worker.reconcile.loop import HEARTBEAT as BEATEN

from tests.conftest import RedisServer
from tests.fakes.gateway_api import FakeGateway


async def look(api: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    answer = await api.get("/v1/doctor", timeout=60)
    assert answer.status_code == 200, answer.text
    return {f"{check['area']}: {check['name']}": check for check in answer.json()["checks"]}


def test_the_heartbeat_is_the_workers() -> None:
    assert HEARTBEAT == BEATEN


async def test_without_a_worker_the_cluster_is_unknown(api: httpx.AsyncClient) -> None:
    checks = await look(api)
    assert checks["stack: redis"]["verdict"] == "pass"
    assert checks["stack: worker"]["verdict"] == "fail"
    assert checks["ssh: tunnel"]["verdict"] == "pass"
    assert checks["slurm: cluster"]["verdict"] == "unknown"
    assert "stack, worker" in checks["slurm: cluster"]["message"]


async def test_without_redis_it_still_answers(api: httpx.AsyncClient, redis_server: RedisServer) -> None:
    redis_server.stop()
    checks = await look(api)
    assert checks["stack: redis"]["verdict"] == "fail"
    assert "make logs" in checks["stack: redis"]["fix"]
    assert checks["stack: worker"]["verdict"] == "unknown"
    assert checks["slurm: cluster"]["verdict"] == "unknown"


async def test_a_host_key_that_nobody_knows(api: httpx.AsyncClient, state: AppState, gateway: FakeGateway) -> None:
    state.store.beat(HEARTBEAT, 60)
    key = {"place": "login", "algorithm": "ssh-ed25519", "fingerprint": "SHA256:abc", "changed": False}
    gateway.tunnel = {**gateway.tunnel, "state": "refused", "host_key": key, "connections": 0}
    checks = await look(api)
    assert (checks["ssh: tunnel"]["verdict"], checks["ssh: host key"]["verdict"]) == ("fail", "fail")
    assert "SHA256:abc" in checks["ssh: host key"]["message"]
    assert "--trust" in checks["ssh: host key"]["fix"]


async def test_without_a_gateway(api: httpx.AsyncClient, state: AppState, gateway: FakeGateway) -> None:
    state.store.beat(HEARTBEAT, 60)
    gateway.stop()
    checks = await look(api)
    assert checks["ssh: gateway"]["verdict"] == "fail"
    assert checks["slurm: cluster"]["verdict"] == "unknown"


@pytest.mark.parametrize("state", TunnelState)
def test_every_state_of_the_tunnel_says_what_to_do(state: TunnelState) -> None:
    check = tunnel_check(TunnelStatus(state=state, host="bouchet", since=datetime.now(UTC), detail="no route"))
    assert (check.verdict is Verdict.PASS) == (state is TunnelState.UP)
    assert check.fix or check.verdict is Verdict.PASS
    assert "bouchet" in check.message + check.fix
