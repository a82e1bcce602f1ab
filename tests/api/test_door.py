"""Who may come in, and how errors look to those who did."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from bouchet_api.app import create_app
from bouchet_api.dependencies import AppState
from bouchet_api.problems import STATUS_BY_KIND, TITLES
from bouchet_core.errors import BouchetError
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.fakes.running_api import KEY

PATHS = ("/v1/models", "/v1/deployments", "/v1/events", "/v1/tunnel", "/openapi.json", "/nowhere", "/healthz/")


async def test_a_body_as_curl_sends_it_is_json(api: httpx.AsyncClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    made = await api.post("/v1/deployments", content='{"model": "bouchet-qwen3-32b"}', headers=form)
    assert made.status_code == 202, made.text
    for body in ('"x"', "[1]", "3"):
        wrong = await api.post("/v1/deployments", content=body, headers=form)
        assert (wrong.status_code, wrong.json()["detail"]) == (422, "the body must be a JSON object")


@pytest.mark.parametrize("span", ["3x", "", "0d", "-1h", "1e9s"])
async def test_a_span_of_time_is_asked_for_in_words(api: httpx.AsyncClient, span: str) -> None:
    used = await api.get("/v1/usage", params={"since": span})
    made = await api.post("/v1/keys", json={"name": "bob", "expires_in": span})
    assert (used.status_code, made.status_code) == (422, 422)
    assert used.json()["detail"] == "since: must be a time span such as 15m, 24h or 30d"
    assert made.json()["detail"] == "expires_in: must be a time span such as 12h, 30d or 8w"


def kinds(error: type[BouchetError]) -> set[str]:
    """Of core's tree and the api's part of it; other rooms' errors never reach the api as objects."""
    own = {error.kind} if error.__module__.split(".")[0] in ("bouchet_core", "bouchet_api") else set()
    return own.union(*(kinds(child) for child in error.__subclasses__()))


def test_every_kind_of_error_has_a_status_and_every_status_a_title() -> None:
    assert kinds(BouchetError) == set(STATUS_BY_KIND)
    assert set(STATUS_BY_KIND.values()) <= set(TITLES)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "", "x-api-key": KEY + "x"},
        {"Authorization": "", "x-api-key": "ä"},
    ],
)
async def test_nothing_answers_without_the_key(api: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    answer = await api.get(path, headers={name: value.encode() for name, value in headers.items()})  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["kind"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


async def test_either_header_opens(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/models")).status_code == 200
    other = {"Authorization": "Bearer of-another-service", "x-api-key": KEY}
    assert (await api.get("/v1/models", headers=other)).status_code == 200
    assert (await api.get("/healthz", headers={"Authorization": ""})).json() == {"status": "ok", "redis": "ok"}


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "evil.example", 403),
        ("Host", "127.0.0.1.evil.example:4001", 403),
        ("Host", "127.0.0.1@evil.example", 403),
        ("Host", "[", 403),
        ("Host", "localhost:4001", 200),
        ("Host", "[::1]:4001", 200),
        ("Host", "api:4001", 200),
        ("Origin", "https://evil.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost:4001", 200),
    ],
)
async def test_pages_of_other_sites_are_kept_out(api: httpx.AsyncClient, header: str, value: str, status: int) -> None:
    for path in ("/v1/models", "/healthz"):
        answer = await api.get(path, headers={header: value})
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


async def test_unknown_paths_and_methods_are_problems(api: httpx.AsyncClient) -> None:
    lost = await api.get("/v1/nowhere")
    assert (lost.status_code, lost.json()["kind"]) == (404, "not_found")
    wrong = await api.put("/v1/deployments", json={})
    assert (wrong.status_code, wrong.json()["kind"]) == (405, "method_not_allowed")
    assert {lost.headers["content-type"], wrong.headers["content-type"]} == {"application/problem+json"}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"model": "m", "gpus": 0}, "gpus", "greater than or equal to 1"),
        ({"model": "m", "time": "six hours"}, "time", "06:00:00"),
        ({"model": "m", "name": "Ä"}, "name", "lower-case letters"),
        ({"model": "m", "modle": 1}, "modle", "did you mean `model`?"),
        ({"model": "m", "serve_as": ["opus", "sonet"]}, "serve_as.1", "'sonnet'"),
        ({}, "model", "is missing"),
        ([], "", "must be a JSON object"),
    ],
)
async def test_a_bad_field_is_named_in_words(api: httpx.AsyncClient, body: Any, field: str, words: str) -> None:
    answer = await api.post("/v1/deployments", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert words in error["problem"]
    assert error["problem"] in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"model": "\\ud800"}', b'{"\\ud800": 1}', b"[" * 100_000])
async def test_bytes_that_are_no_request_are_refused(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/v1/deployments", content=body)
    assert answer.status_code in (400, 404, 422)
    assert answer.json()["kind"] in ("bad_request", "unknown_model")


async def test_long_and_endless_bodies_are_refused(api: httpx.AsyncClient) -> None:
    long = await api.post("/v1/deployments", content=b"x" * 300_000)
    assert (long.status_code, long.json()["kind"]) == (413, "too_large")

    async def endless() -> Any:
        yield b"{"

    chunked = await api.post("/v1/deployments", content=endless())
    assert chunked.status_code == 411


async def test_a_passcode_is_not_repeated_by_an_error(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/tunnel/answer", json={"prompt_id": "p", "responses": "987654"})
    assert answer.status_code == 422
    assert "987654" not in answer.text


async def test_an_error_nobody_foresaw_shows_no_trace(state: AppState) -> None:
    app = create_app(state, KEY)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret detail")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("/broken", headers={"x-api-key": KEY})
    assert (answer.status_code, answer.json()["kind"]) == (500, "internal")
    assert "secret" not in answer.text


FIELDS = st.sampled_from(["model", "name", "gpus", "nodes", "time", "partition", "quant", "max_len", "serve_as", "x"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.sampled_from(["Qwen/Qwen3-32B", "fp8", "opus", "06:00:00"])
BODIES = st.dictionaries(FIELDS | st.text(st.characters(), max_size=10), VALUES, max_size=6) | VALUES


@pytest.fixture
def app(state: AppState) -> FastAPI:
    return create_app(state, KEY)


@examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, raw=st.booleans())
def test_no_body_ever_gives_500(app: FastAPI, body: Any, raw: bool) -> None:
    content = repr(body).encode("utf-8", "replace") if raw else json.dumps(body).encode()

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/deployments", content=content, headers={"x-api-key": KEY})

    answer = asyncio.run(send())
    assert answer.status_code in (202, 400, 404, 409, 413, 422), answer.text
    assert answer.status_code == 202 or answer.json()["detail"]
