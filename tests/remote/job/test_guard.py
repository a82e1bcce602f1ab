"""guard.py as ASGI middleware: all paths but /health need the key; draining is reported and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import guard
import httpx
import pytest

from tests.remote.compute_node import KEY


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


MakeGuard = Callable[[], Any]


@pytest.fixture
def make_guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeGuard:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv("BOUCHET_DRAIN_FILE", str(tmp_path / "drain"))
    return lambda: guard.Guard(app)


async def ask(guarded: Any, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://node") as client:
        return await client.post(path, headers=headers)


CLOSED = ["/v1/models", "/v1/messages", "/invocations", "/tokenize", "/metrics", "/version", "/"]
SIMILAR_TO_HEALTH = ["/health/", "//health", "/HEALTH"]


@pytest.mark.parametrize("path", [*CLOSED, *SIMILAR_TO_HEALTH])
@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": KEY}, {"authorization": KEY}, {"authorization": "Bearer "}, {"authorization": f"Bearer {KEY}x"}],
)
async def test_other_paths_need_key(make_guard: MakeGuard, path: str, headers: dict[str, str]) -> None:
    assert (await ask(make_guard(), path, **headers)).status_code == 401


async def test_health_is_open_and_key_opens_other_paths(make_guard: MakeGuard) -> None:
    assert (await ask(make_guard(), "/health")).status_code == 200
    assert (await ask(make_guard(), "/invocations", authorization=f"Bearer {KEY}")).status_code == 200


async def test_two_keys_are_rejected(make_guard: MakeGuard) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_guard()), base_url="http://node") as client:
        both = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
        assert (await client.get("/v1/models", headers=both)).status_code == 401


async def test_without_key_in_environment_all_requests_are_rejected(
    make_guard: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    assert (await ask(make_guard(), "/v1/models", authorization="Bearer ")).status_code == 401


async def test_draining_is_reported_and_new_requests_are_refused(make_guard: MakeGuard, tmp_path: Path) -> None:
    guarded = make_guard()
    (tmp_path / "drain").touch()
    health = await ask(guarded, "/health")
    assert health.status_code == 503 and health.headers["x-bouchet-state"] == "draining"
    assert (await ask(guarded, "/v1/messages", authorization=f"Bearer {KEY}")).status_code == 503
    assert (await ask(guarded, "/v1/messages")).status_code == 401


async def test_idle_warning_is_returned_with_health(make_guard: MakeGuard, tmp_path: Path) -> None:
    guarded = make_guard()
    assert "x-bouchet-warning" not in (await ask(guarded, "/health")).headers
    (tmp_path / "warning").write_text("idle for 36 min\n")
    assert (await ask(guarded, "/health")).headers["x-bouchet-warning"] == "idle for 36 min"
    (tmp_path / "warning").write_text("a\nb: c\n")
    assert "x-bouchet-warning" not in (await ask(guarded, "/health")).headers


@pytest.mark.parametrize("path", ["/health", "/v1/realtime"])
async def test_websockets_need_key_on_every_path(make_guard: MakeGuard, path: str) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await make_guard()({"type": "websocket", "path": path, "headers": []}, None, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_lifespan_is_passed_on(make_guard: MakeGuard) -> None:
    types: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        types.append(scope["type"])

    guarded = make_guard()
    guarded._app = inner
    await guarded({"type": "lifespan"}, None, None)
    assert types == ["lifespan"]
