"""Usage records and their sums in the store."""

from __future__ import annotations

from dataclasses import replace

from bouchet_core.store import Store
from bouchet_core.usage import UsageBy, UsageRecord, summary_of

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


def test_summary_without_answers_has_no_means() -> None:
    line = summary_of("x", {"requests": 1})
    assert (line.first_token_ms, line.tokens_per_second) == (None, None)
