"""Requests that wait for the ledger in the store."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from bouchet_core.store import Store
from bouchet_core.usage import UsageRecord, summary_of

from tests.conftest import RedisServer

NOW = 1_795_000_000.0
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


def test_last_returns_requests_newest_first(store: Store) -> None:
    store.usage.add([ONE, replace(ONE, key="bob", first_ms=None)])
    newest, oldest = store.usage.last()
    assert (newest["key"], newest["first_ms"], oldest["key"], oldest["first_ms"]) == ("bob", "", "alice", "200")


def test_usage_is_dropped_before_records_do_not_fit(
    store: Store, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis(port=redis_server.port, password=redis_server.password) as raw:
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", 8 << 20)
        try:
            for n in range(60):
                store.usage.add([replace(ONE, at=NOW + 900 * n, key=f"key-{i}", model="m" * 400) for i in range(200)])
            used, most = store.usage.memory()
            assert most == 8 << 20 and 0.4 * most < used < 0.75 * most
            # what Redis uses goes up and down by the buffers of its clients, so it may be recorded for a moment again
            assert "usage is not recorded" in caplog.records[0].getMessage() and len(caplog.records) < 30
            assert store.lease("reconcile", "worker", 10)
            store.beat("worker", 10)
            assert len(store.usage.last(100_000)) < 60 * 200
        finally:
            raw.config_set("maxmemory", 0)


def test_summary_without_answers_has_no_means() -> None:
    line = summary_of("x", {"requests": 1})
    assert (line.first_token_ms, line.tokens_per_second) == (None, None)
