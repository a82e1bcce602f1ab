"""/v1/keys and /v1/usage."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_core.keys import KEY_PREFIX, sha256_of
from bouchet_core.usage import UsageRecord
from bouchet_core.values import parse_time_span


def record(**fields: object) -> UsageRecord:
    made = {"at": time.time(), "key": "alice", "model": "org/Tiny", "session": "5e55", "deployment": "d1"}
    rest = {"endpoint": "/v1/messages", "status": 200, "error": "", "input": 100, "cached": 900, "output": 50}
    return UsageRecord(**{**made, **rest, "first_ms": 200, "generating_ms": 1000, **fields})  # type: ignore[arg-type]


def break_database(state: AppState) -> None:
    """Put a folder where the ledger's file is expected."""
    state.ledger.database.close()
    file = Path(state.ledger.database.shown)
    file.unlink(missing_ok=True)
    file.mkdir()


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


async def test_usage_is_summed_by_key_and_by_model(api: httpx.AsyncClient, state: AppState) -> None:
    state.store.usage.add([record(id="1"), record(id="2", key="bob", error="http_500", status=500, output=0)])
    assert state.ledger.consumer.take_pending() == 2
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
    assert line["errors_by_kind"] == {"http_500": 1}


async def test_usage_by_session_is_of_requests_that_reached_a_model_within_a_day(
    api: httpx.AsyncClient, state: AppState
) -> None:
    made = [
        record(id="1"),
        record(id="2", continued=2, first_ms=400),
        record(id="3", session="other", deployment="", model="", status=404, error="not_found_error"),
        record(id="4", session="0ld", at=time.time() - 2 * 86_400),
        record(id="5", session="fa11", error="http_500", status=500, output=0, first_ms=None),
    ]
    state.store.usage.add(made)
    state.ledger.consumer.take_pending()
    lines = (await api.get("/v1/usage", params={"by": "session", "since": "30d"})).json()["lines"]
    assert {line["name"]: (line["requests"], line["errors_by_kind"]) for line in lines} == {
        "5e55": (2, {}),
        "fa11": (1, {"http_500": 1}),
    }
    first = next(line for line in lines if line["name"] == "5e55")
    assert (first["continued"], first["first_token_ms"], first["tokens_per_second"]) == (2, 300, 50.0)
    by_key = (await api.get("/v1/usage", params={"since": "30d"})).json()["lines"]
    assert [(line["requests"], line["continued"]) for line in by_key] == [(5, 2)]


async def test_usage_and_the_ledger_have_the_same_sums(api: httpx.AsyncClient, state: AppState) -> None:
    state.store.usage.add([record(id=str(n), key=f"person-{n % 3}", error="" if n % 4 else "x") for n in range(40)])
    state.ledger.consumer.take_pending()
    of_late = (await api.get("/v1/usage", params={"since": "3h"})).json()["lines"]
    days = (await api.get("/v1/ledger", params={"by": "key"})).json()["lines"]
    assert of_late == days and sum(line["requests"] for line in of_late) == 40


async def test_usage_without_a_database_says_that_entries_wait(api: httpx.AsyncClient, state: AppState) -> None:
    break_database(state)
    refused = await api.get("/v1/usage")
    assert (refused.status_code, refused.json()["kind"]) == (503, "ledger_unavailable")
    assert "wait in Redis" in refused.json()["detail"]


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
