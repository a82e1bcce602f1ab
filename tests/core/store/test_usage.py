"""Usage records and their sums in the store."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from bouchet_core.store import Store
from bouchet_core.store.usage import SESSIONS_PER_KEY
from bouchet_core.usage import UsageBy, UsageRecord, summary_of

from tests.conftest import RedisServer

NOW = 1_795_000_000.0
HOUR = 3600
ONE = UsageRecord(
    at=NOW,
    key="alice",
    model="org/Tiny|Model",
    session="5e55",
    deployment="d1",
    endpoint="/v1/messages",
    status=200,
    error="",
    input=100,
    cached=900,
    output=50,
    first_ms=200,
    generating_ms=2500,
)


def test_summaries_by_every_dimension(store: Store) -> None:
    failed = replace(ONE, key="bob", session="", status=529, error="overloaded", input=0, cached=0, output=0)
    store.usage.add([ONE, replace(ONE, first_ms=400), replace(failed, first_ms=None)])
    store.usage.add([replace(ONE, key="bob", at=NOW - HOUR)])
    alice, bob = store.usage.summaries(UsageBy.KEY, NOW - 2 * HOUR, NOW)
    assert (alice.name, alice.requests, alice.input_tokens, alice.cached_tokens) == ("alice", 2, 200, 1800)
    assert (alice.output_tokens, alice.first_token_ms, alice.tokens_per_second, alice.errors) == (100, 300, 20.0, 0)
    assert (bob.name, bob.requests, bob.errors, bob.errors_by_kind) == ("bob", 2, 1, {"overloaded": 1})
    assert [line.name for line in store.usage.summaries(UsageBy.MODEL, NOW - 2 * HOUR, NOW)] == ["org/Tiny|Model"]
    assert [(line.name, line.requests) for line in store.usage.summaries(UsageBy.SESSION, NOW - 2 * HOUR, NOW)] == [
        ("5e55", 3)
    ]


def test_summaries_exclude_older_records(store: Store) -> None:
    store.usage.add([ONE, replace(ONE, key="bob", at=NOW - HOUR)])
    assert [line.name for line in store.usage.summaries(UsageBy.KEY, NOW - 60, NOW)] == ["alice"]


def test_last_returns_requests_newest_first(store: Store) -> None:
    store.usage.add([ONE, replace(ONE, key="bob", first_ms=None)])
    newest, oldest = store.usage.last()
    assert (newest["key"], newest["first_ms"], oldest["key"], oldest["first_ms"]) == ("bob", "", "alice", "200")


def test_sessions_beyond_the_limit_of_a_key_are_summed_as_other(store: Store) -> None:
    sessions = [replace(ONE, session=f"{n:012x}") for n in range(SESSIONS_PER_KEY + 40)]
    store.usage.add(sessions[:50])
    store.usage.add(sessions)
    store.usage.add([replace(ONE, key="bob", session="b0b")])
    found = {line.name: line.requests for line in store.usage.summaries(UsageBy.SESSION, NOW - HOUR, NOW)}
    assert len(found) == SESSIONS_PER_KEY + 2
    assert (found["other"], found["b0b"], found[f"{0:012x}"], found[f"{60:012x}"]) == (40, 1, 2, 1)


def test_sessions_are_counted_only_for_requests_that_reached_a_model_and_kept_a_day(
    store: Store, redis_server: RedisServer
) -> None:
    missing = replace(ONE, deployment="", model="", status=404, error="not_found_error")
    store.usage.add([replace(missing, session=f"{n:012x}") for n in range(500)])
    assert store.usage.summaries(UsageBy.SESSION, NOW - HOUR, NOW) == []
    assert [line.errors for line in store.usage.summaries(UsageBy.KEY, NOW - HOUR, NOW)] == [500]
    store.usage.add([ONE])
    with redis.Redis(port=redis_server.port, password=redis_server.password, decode_responses=True) as raw:
        keys = list(raw.scan_iter("bouchet:usage:session*"))
        assert len(keys) == 2 and all(0 < int(raw.ttl(key)) <= 24 * HOUR for key in keys)


def test_usage_is_dropped_before_records_do_not_fit(
    store: Store, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis(port=redis_server.port, password=redis_server.password) as raw:
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", 8 << 20)
        try:
            for n in range(60):
                store.usage.add([replace(ONE, at=NOW + 900 * n, key=f"key-{i}", session=f"{i}") for i in range(200)])
            used, most = store.usage.memory()
            assert most == 8 << 20 and 0.5 * most < used < 0.75 * most
            assert "usage is not recorded" in caplog.text and len(caplog.records) == 1
            assert store.lease("reconcile", "worker", 10)
            store.beat("worker", 10)
            assert len(store.usage.last(100_000)) < 60 * 200
        finally:
            raw.config_set("maxmemory", 0)


def test_summary_without_answers_has_no_means() -> None:
    line = summary_of("x", {"requests": 1})
    assert (line.first_token_ms, line.tokens_per_second) == (None, None)
