"""The API's checks: what is down is a failed check, and what is behind it is unknown, never passed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis
from bouchet_api.doctor import tunnel_check
from bouchet_core.doctor import Verdict
from bouchet_core.store import Store
from bouchet_core.tasks import HEARTBEAT
from bouchet_core.tunnel import TunnelState, TunnelStatus

from tests.conftest import RedisServer
from tests.fakes.gateway_api import FakeGateway


async def checks(api: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    answer = await api.get("/v1/doctor", timeout=60)
    assert answer.status_code == 200, answer.text
    return {f"{check['area']}: {check['name']}": check for check in answer.json()["checks"]}


async def test_missing_worker_fails_and_the_cluster_is_unknown(api: httpx.AsyncClient) -> None:
    found = await checks(api)
    assert found["stack: redis"]["verdict"] == "pass"
    assert found["stack: worker"]["verdict"] == "fail"
    assert found["ssh: tunnel"]["verdict"] == "pass"
    assert found["slurm: cluster"]["verdict"] == "unknown"
    assert "stack, worker" in found["slurm: cluster"]["message"]


async def test_unreadable_key_is_named_and_can_be_revoked(api: httpx.AsyncClient, redis_server: RedisServer) -> None:
    assert (await checks(api))["stack: records"]["verdict"] == "pass"
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:
        client.hset("bouchet:access:keys", "bob", '{"name":"bob"}')
    found = (await checks(api))["stack: records"]
    assert found["verdict"] == "warn" and "key bob cannot be read" in found["message"]
    answer = await api.delete("/v1/keys/bob")
    assert (answer.status_code, answer.json()["expired"]) == (200, True)
    assert (await checks(api))["stack: records"]["verdict"] == "pass"


async def test_unreachable_redis_fails_and_the_report_still_comes(
    api: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    redis_server.stop()
    found = await checks(api)
    assert found["stack: redis"]["verdict"] == "fail"
    assert "make logs" in found["stack: redis"]["fix"]
    assert found["stack: worker"]["verdict"] == "unknown"
    assert found["slurm: cluster"]["verdict"] == "unknown"


async def test_unknown_host_key_fails_with_its_fingerprint(
    api: httpx.AsyncClient, store: Store, gateway: FakeGateway
) -> None:
    store.beat(HEARTBEAT, 60)
    key = {"place": "login", "algorithm": "ssh-ed25519", "fingerprint": "SHA256:abc", "changed": False}
    gateway.tunnel = {**gateway.tunnel, "state": "refused", "host_key": key, "connections": 0}
    found = await checks(api)
    assert (found["ssh: tunnel"]["verdict"], found["ssh: host key"]["verdict"]) == ("fail", "fail")
    assert "SHA256:abc" in found["ssh: host key"]["message"]
    assert "--trust" in found["ssh: host key"]["fix"]


async def test_missing_gateway_fails_and_the_cluster_is_unknown(
    api: httpx.AsyncClient, store: Store, gateway: FakeGateway
) -> None:
    store.beat(HEARTBEAT, 60)
    gateway.stop()
    found = await checks(api)
    assert found["ssh: gateway"]["verdict"] == "fail"
    assert found["slurm: cluster"]["verdict"] == "unknown"


async def test_worker_that_does_not_answer_leaves_the_cluster_unknown(
    api: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouchet_api.doctor.WAIT_S", 0.2)
    store.beat(HEARTBEAT, 60)
    found = await checks(api)
    assert found["stack: worker"]["verdict"] == "pass"
    assert found["slurm: cluster"]["verdict"] == "unknown"
    assert "'doctor'" in found["slurm: cluster"]["message"]


@pytest.mark.parametrize("state", TunnelState)
def test_tunnel_check_has_a_fix_unless_it_is_up(state: TunnelState) -> None:
    check = tunnel_check(TunnelStatus(state=state, host="bouchet", since=datetime.now(UTC), detail="no route"))
    assert (check.verdict is Verdict.PASS) == (state is TunnelState.UP)
    assert check.fix or check.verdict is Verdict.PASS
    assert "bouchet" in check.message
