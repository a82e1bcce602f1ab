"""The internal API: its token, its limits, and error bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from bouchet_core import errors
from bouchet_core.store import Store
from bouchet_core.tunnel import MAX_ANSWER_CHARACTERS, MAX_ANSWERS
from bouchet_gateway.errors import HTTP_STATUS
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits

from .login_node import LoginNode
from .running import API_TOKEN, TOKEN, api_client, make_settings

WORKER, API, BOTH = {TOKEN}, {API_TOKEN}, {TOKEN, API_TOKEN}
# every endpoint, and whose tokens open it
OPENED_BY = {
    ("POST", "/v1/run"): WORKER,
    ("PUT", "/v1/files"): WORKER,
    ("GET", "/v1/files"): BOTH,
    ("GET", "/v1/status"): BOTH,
    ("POST", "/v1/answer"): API,
    ("POST", "/v1/connect"): API,
    ("POST", "/v1/trust"): API,
    ("POST", "/v1/forget"): API,
}


@pytest.fixture
async def idle(login_node: LoginNode, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a gateway that does not connect."""
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(file_bytes=1 << 20, file_hold_s=0.1)), store)
    async with api_client(gateway) as client:
        yield client


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic test-token", "Bearer", "Bearer tést"])
async def test_api_without_token_is_401(idle: httpx.AsyncClient, header: str | None) -> None:
    del idle.headers["authorization"]
    headers = [(b"authorization", header.encode())] if header else []
    for method, path in OPENED_BY:
        answer = await idle.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (401, "unauthorized")
    assert (await idle.get("/healthz")).json() == {"status": "ok"}


async def test_api_endpoint_of_the_other_role_is_403(idle: httpx.AsyncClient) -> None:
    for (method, path), tokens in OPENED_BY.items():
        for token, role in ((TOKEN, "worker"), (API_TOKEN, "api")):
            answer = await idle.request(method, path, headers={"authorization": f"Bearer {token}"})
            if token in tokens:
                # an empty body fits /v1/connect and /v1/status alone
                assert answer.status_code in (200, 202, 422), (path, role)
            else:
                assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed"), (path, role)
                assert f"the {role}'s token does not open {method} {path}" in answer.json()["detail"]


def test_roles_are_tested_for_every_endpoint(login_node: LoginNode, store: Store) -> None:
    paths = Gateway(make_settings(login_node), store).app.openapi()["paths"]
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods if path != "/healthz"}
    assert found == set(OPENED_BY)


KEY_FILE = "~/bouchet/jobs/bouchet-x-1/key"


@pytest.mark.parametrize(
    "path", [KEY_FILE, "~/bouchet/logs/x/7.log", "~/bouchet/logs", "/etc/passwd", "~/bouchet/logs/../jobs/x/key"]
)
async def test_get_file_with_the_api_token_is_for_logs_only(idle: httpx.AsyncClient, path: str) -> None:
    headers = {"authorization": f"Bearer {API_TOKEN}"}
    answer = await idle.get("/v1/files", params={"path": path}, headers=headers)
    assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed")
    log = await idle.get("/v1/files", params={"path": "~/bouchet/logs/7.log"}, headers=headers)
    assert log.json()["kind"] == "tunnel_down", "allowed, but this gateway does not connect"


@pytest.mark.parametrize(
    "body",
    [
        {"prompt_id": "x", "responses": "654321"},
        {"prompt_id": "x", "responses": ["654321"] * (MAX_ANSWERS + 1)},
        {"prompt_id": "x", "responses": ["654321" * MAX_ANSWER_CHARACTERS]},
        {"prompt_id": "654321" * 20, "responses": []},
        {"prompt_id": "x", "responses": [], "654321": 1},
    ],
)
async def test_answer_invalid_is_422_without_its_text(idle: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await idle.post("/v1/answer", json=body, headers={"authorization": f"Bearer {API_TOKEN}"})
    assert (answer.status_code, answer.json()["kind"]) == (422, "bad_request")
    assert "'654321" not in answer.text


async def test_answer_at_the_limits_is_accepted_by_validation(idle: httpx.AsyncClient) -> None:
    body = {"prompt_id": "x", "responses": ["a" * MAX_ANSWER_CHARACTERS] * MAX_ANSWERS}
    answer = await idle.post("/v1/answer", json=body, headers={"authorization": f"Bearer {API_TOKEN}"})
    assert (answer.status_code, answer.json()["kind"]) == (409, "stale_prompt")


async def test_run_invalid_body_is_refused(idle: httpx.AsyncClient) -> None:
    bodies: list[dict[str, Any]] = [
        {"argv": []},
        {"argv": ["squeue"], "timeout_s": 0},
        {"argv": ["squeue"], "other": 1},
    ]
    for body in bodies:
        assert (await idle.post("/v1/run", json=body)).status_code == 422
    too_long = await idle.post("/v1/run", json={"argv": ["squeue"], "timeout_s": 1e9})
    assert (too_long.status_code, too_long.json()["kind"]) == (400, "bad_request")
    assert too_long.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["~/bouchet/../.ssh/id_rsa", "/etc/passwd", "bouchet/x", "~root/x", "~/bouchetx/y"])
async def test_files_outside_site_directories_are_refused(idle: httpx.AsyncClient, path: str) -> None:
    for answer in (
        await idle.get("/v1/files", params={"path": path}),
        await idle.put("/v1/files", params={"path": path}, content=b"x"),
    ):
        assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed")


@pytest.mark.parametrize(("mode", "size"), [("1777", 1), ("600", (1 << 20) + 1)])
async def test_put_mode_or_size_over_limit_is_refused(idle: httpx.AsyncClient, mode: str, size: int) -> None:
    answer = await idle.put("/v1/files", params={"path": "~/bouchet/jobs/x", "mode": mode}, content=b"x" * size)
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad_request")


def test_http_status_of_every_cluster_outage_is_503() -> None:
    outages = (errors.TunnelDownError, errors.HumanNeededError, errors.ClusterUnavailableError)
    assert {HTTP_STATUS[error.kind] for error in outages} == {503}
