"""/v1/tunnel: state, prompts, host keys."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from bouchet_core.store.load import LoadReport

from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import RunningApi


def test_tunnel_prompt_is_shown_and_answered(client: httpx.Client, live_api: RunningApi) -> None:
    gateway = live_api.gateway
    assert client.get("/v1/tunnel").json()["state"] == "up"
    gateway.ask("p1", "Passcode or option (1-2): ")
    assert client.get("/v1/tunnel").json()["prompt"]["questions"] == ["Passcode or option (1-2): "]
    stale = client.post("/v1/tunnel/answer", json={"prompt_id": "p0", "responses": ["1"]})
    assert (stale.status_code, stale.json()["kind"]) == (409, "stale_prompt")
    assert client.post("/v1/tunnel/answer", json={"prompt_id": "p1", "responses": ["1"]}).status_code == 202
    assert gateway.answers == [["1"]]


def test_tunnel_says_how_many_requests_wait_for_it(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.store.load.report(LoadReport(at=datetime.now(UTC), cut=3))
    assert client.get("/v1/tunnel").json()["waiting_requests"] == 3
    live_api.gateway.ask("p1", "Passcode: ")
    checks = client.get("/v1/doctor").json()["checks"]
    tunnel = next(check for check in checks if check["name"] == "tunnel")
    assert tunnel["verdict"] == "fail" and "3 requests wait" in tunnel["message"]
    assert client.get("/v1/status").json()["tunnel"]["waiting_requests"] == 3


def test_tunnel_connects_on_request(client: httpx.Client, live_api: RunningApi) -> None:
    assert client.post("/v1/tunnel/connect").status_code == 202
    assert live_api.gateway.connects == 1


def test_tunnel_trusts_the_host_key_that_it_shows_only(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.offer("SHA256:abc")
    assert client.get("/v1/tunnel").json()["host_key"]["fingerprint"] == "SHA256:abc"
    other = client.post("/v1/tunnel/trust", json={"fingerprint": "SHA256:other"})
    assert (other.status_code, other.json()["kind"]) == (409, "host_key_not_trusted")
    assert client.post("/v1/tunnel/trust", json={"fingerprint": "SHA256:abc"}).status_code == 202
    assert client.get("/v1/tunnel").json()["state"] == "up"


async def test_tunnel_without_gateway_is_503(api: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.stop()
    answer = await api.get("/v1/tunnel")
    assert (answer.status_code, answer.json()["kind"]) == (503, "gateway_unreachable")


def test_tunnel_of_another_gateway_version_is_503(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.tunnel = {"state": "of a later version"}
    answer = client.get("/v1/tunnel")
    assert (answer.status_code, answer.json()["kind"]) == (503, "gateway_unreachable")
    assert "make up" in answer.json()["detail"]
