"""/v1/keys and /v1/usage."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_core.keys import KEY_PREFIX, sha256_of
from bouchet_core.store import Store
from bouchet_core.usage import UsageRecord
from bouchet_core.values import parse_time_span


def record(**fields: object) -> UsageRecord:
    made = {"at": time.time(), "key": "alice", "model": "org/Tiny", "session": "5e55", "deployment": "d1"}
    rest = {"endpoint": "/v1/messages", "status": 200, "error": "", "input": 100, "cached": 900, "output": 50}
    return UsageRecord(**{**made, **rest, "first_ms": 200, "generating_ms": 1000, **fields})  # type: ignore[arg-type]


async def test_new_key_is_shown_once_and_stored_as_a_hash(api: httpx.AsyncClient, state: AppState) -> None:
    limits = {"requests_per_minute": 60, "tokens_per_minute": 1000}
    made = await api.post("/v1/keys", json={"name": "alice", "expires_in": "30d", **limits})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    body = made.json()
    assert body["key"].startswith(KEY_PREFIX)
    assert body["shown"] == f"{KEY_PREFIX}...{body['key'][-4:]}"
    lifetime = datetime.fromisoformat(body["expires_at"]) - datetime.fromisoformat(body["created_at"])
    assert lifetime == timedelta(days=30)
    listed = (await api.get("/v1/keys")).text
    assert '"alice"' in listed and body["key"] not in listed
    (kept,) = state.store.api_keys.all()
    assert kept.sha256 == sha256_of(body["key"])
    assert body["key"] not in kept.model_dump_json()


async def test_key_name_is_unique_until_it_is_revoked(api: httpx.AsyncClient) -> None:
    await api.post("/v1/keys", json={"name": "alice"})
    again = await api.post("/v1/keys", json={"name": "alice"})
    assert (again.status_code, again.json()["kind"]) == (409, "key_name_taken")
    assert (await api.delete("/v1/keys/alice")).json()["name"] == "alice"
    gone = await api.delete("/v1/keys/alice")
    assert (gone.status_code, gone.json()["kind"]) == (404, "unknown_key")
    assert (await api.get("/v1/keys")).json() == {"keys": []}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "Alice B"},
        {"name": "owner"},
        {"name": "a", "requests_per_minute": 0},
        {"name": "a", "expires_in": "soon"},
        {"name": "a", "token_per_minute": 5},
    ],
)
async def test_invalid_key_request_is_refused(api: httpx.AsyncClient, state: AppState, body: dict[str, object]) -> None:
    refused = await api.post("/v1/keys", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"]
    assert state.store.api_keys.all() == []


async def test_usage_is_summed_by_key_and_by_model(api: httpx.AsyncClient, store: Store) -> None:
    store.usage.add([record(), record(key="bob", error="http_500", status=500, output=0)])
    by_key = (await api.get("/v1/usage")).json()
    assert by_key["by"] == "key"
    assert {line["name"]: line["errors_by_kind"] for line in by_key["lines"]} == {"alice": {}, "bob": {"http_500": 1}}
    by_model = (await api.get("/v1/usage", params={"by": "model", "since": "15m"})).json()
    (line,) = by_model["lines"]
    assert (line["name"], line["requests"], line["cached_tokens"], line["tokens_per_second"]) == (
        "org/Tiny",
        2,
        1800,
        50.0,
    )


@pytest.mark.parametrize("query", [{"by": "colour"}, {"since": "yesterday"}, {"since": "0h"}])
async def test_invalid_usage_query_is_422(api: httpx.AsyncClient, query: dict[str, str]) -> None:
    assert (await api.get("/v1/usage", params=query)).status_code == 422


def test_time_span_is_parsed() -> None:
    assert [parse_time_span(text) for text in ("90s", "24h", "2w")] == [
        timedelta(seconds=90),
        timedelta(hours=24),
        timedelta(weeks=2),
    ]
    with pytest.raises(ValueError, match="24h or 30d"):
        parse_time_span("1y")
