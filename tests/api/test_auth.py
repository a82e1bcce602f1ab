"""Authentication by key, and protection from web pages of other sites."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from bouchet_core.keys import metrics_key

from tests.fakes.running_api import ADMIN_KEY

PATHS = ("/v1/models", "/v1/deployments", "/v1/events", "/v1/tunnel", "/openapi.json", "/nowhere", "/healthz/")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {ADMIN_KEY}"},
        {"Authorization": "", "x-api-key": ADMIN_KEY + "x"},
        {"Authorization": "", "x-api-key": "ä"},
    ],
)
async def test_request_without_the_key_is_401_on_every_path(api: httpx.AsyncClient, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    for path in PATHS:
        answer = await api.get(path, headers=httpx.Headers(encoded))
        assert (answer.status_code, answer.json()["kind"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert ADMIN_KEY not in answer.text


async def test_key_is_accepted_in_either_header(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/keys")).status_code == 200
    other = {"Authorization": "Bearer of-another-service", "x-api-key": ADMIN_KEY}
    assert (await api.get("/v1/keys", headers=other)).status_code == 200
    assert (await api.get("/healthz", headers={"Authorization": ""})).json() == {"status": "ok", "redis": "ok"}


async def test_key_of_prometheus_opens_metrics_and_nothing_else(api: httpx.AsyncClient) -> None:
    for header in ({"Authorization": f"Bearer {metrics_key(ADMIN_KEY)}"}, {"x-api-key": metrics_key(ADMIN_KEY)}):
        headers = {"Authorization": "", **header}
        assert (await api.get("/metrics", headers=headers)).status_code == 200
        for method, path in (("POST", "/metrics"), *(("GET", path) for path in (*PATHS, "/v1/metrics", "/metrics/"))):
            assert (await api.request(method, path, headers=headers)).status_code == 401


async def test_proxy_key_is_401(api: httpx.AsyncClient) -> None:
    key = (await api.post("/v1/keys", json={"name": "alice"})).json()["key"]
    refused = await api.get("/v1/keys", headers={"authorization": f"Bearer {key}"})
    assert refused.status_code == 401


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
async def test_foreign_host_or_origin_is_403(api: httpx.AsyncClient, header: str, value: str, status: int) -> None:
    for path in ("/v1/keys", "/healthz"):
        answer = await api.get(path, headers={header: value})
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


async def test_long_body_is_413_and_chunked_body_is_411(api: httpx.AsyncClient) -> None:
    long = await api.post("/v1/deployments", content=b"x" * 300_000)
    assert (long.status_code, long.json()["kind"]) == (413, "too_large")

    for length in ("300000", "0" * 9 + "999999999999", "-1", "0x1", "١"):
        headers = {b"content-type": b"application/json", b"content-length": length.encode()}
        lying = await api.post("/v1/deployments", content=b"{}", headers=headers)
        assert (lying.status_code, lying.json()["kind"]) == (413, "too_large"), length

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{"

    chunked = await api.post("/v1/deployments", content=chunks())
    assert (chunked.status_code, chunked.json()["kind"]) == (411, "length_required")


async def test_form_body_of_curl_is_read_as_json(api: httpx.AsyncClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    made = await api.post("/v1/deployments", content='{"model": "bouchet-qwen3-32b"}', headers=form)
    assert made.status_code == 202, made.text
    for body in ('"x"', "[1]", "3"):
        wrong = await api.post("/v1/deployments", content=body, headers=form)
        assert (wrong.status_code, wrong.json()["detail"]) == (422, "the body must be a JSON object")
