"""The guard as an ASGI middleware: every path but /health needs the key; draining is seen and refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.remote.compute_node import KEY, SCRIPTS


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


MakeGuard = Callable[[], Any]


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeGuard:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv("BOUCHET_DRAIN_FILE", str(tmp_path / "drain"))
    spec = importlib.util.spec_from_file_location("guard", SCRIPTS / "guard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: module.Guard(app)


async def ask(guard: Any, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://node") as client:
        return await client.post(path, headers=headers)


CLOSED = ["/v1/models", "/v1/messages", "/invocations", "/tokenize", "/metrics", "/version", "/"]
LIKE_HEALTH = ["/health/", "//health", "/HEALTH"]


@pytest.mark.parametrize("path", [*CLOSED, *LIKE_HEALTH])
@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": KEY}, {"authorization": KEY}, {"authorization": "Bearer "}, {"authorization": f"Bearer {KEY}x"}],
)
async def test_nothing_but_health_is_open(guard: MakeGuard, path: str, headers: dict[str, str]) -> None:
    assert (await ask(guard(), path, **headers)).status_code == 401


async def test_health_is_open_and_the_key_opens_the_rest(guard: MakeGuard) -> None:
    assert (await ask(guard(), "/health")).status_code == 200
    assert (await ask(guard(), "/invocations", authorization=f"Bearer {KEY}")).status_code == 200


async def test_two_keys_are_none(guard: MakeGuard) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard()), base_url="http://node") as client:
        both = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
        assert (await client.get("/v1/models", headers=both)).status_code == 401


async def test_without_a_key_in_the_environment_nobody_gets_in(
    guard: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    assert (await ask(guard(), "/v1/models", authorization="Bearer ")).status_code == 401


async def test_draining_is_said_and_new_requests_are_refused(guard: MakeGuard, tmp_path: Path) -> None:
    guarded = guard()
    (tmp_path / "drain").touch()
    health = await ask(guarded, "/health")
    assert health.status_code == 503 and health.headers["x-bouchet-state"] == "draining"
    assert (await ask(guarded, "/v1/messages", authorization=f"Bearer {KEY}")).status_code == 503
    assert (await ask(guarded, "/v1/messages")).status_code == 401


async def test_a_warning_of_the_watch_is_told_with_the_health(guard: MakeGuard, tmp_path: Path) -> None:
    guarded = guard()
    assert "x-bouchet-warning" not in (await ask(guarded, "/health")).headers
    (tmp_path / "warning").write_text("idle for 36 min\n")
    assert (await ask(guarded, "/health")).headers["x-bouchet-warning"] == "idle for 36 min"
    (tmp_path / "warning").write_text("a\nb: c\n")
    assert "x-bouchet-warning" not in (await ask(guarded, "/health")).headers


@pytest.mark.parametrize("path", ["/health", "/v1/realtime"])
async def test_websockets_need_the_key_on_every_path(guard: MakeGuard, path: str) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await guard()({"type": "websocket", "path": path, "headers": []}, None, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_the_lifespan_passes(guard: MakeGuard) -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    guarded = guard()
    guarded._app = inner
    await guarded({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
