"""Keys and usage while Redis is away: what was known goes on, what was used is not lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from bouchet_core.keys import ApiKey, sha256_of
from bouchet_core.store import Store
from bouchet_core.usage import UsageBy, UsageSummary
from bouchet_proxy.auth.api_keys import Caller
from bouchet_proxy.auth.key_watcher import KeyWatcher
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.dialects.usage_counts import Tokens
from bouchet_proxy.usage.recorder import Recorder
from bouchet_proxy.usage.request import Tally

from tests.conftest import RedisServer, start_redis

SECRET = "sk-bouchet-of-a-test"


def within(limit_s: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_last_known_keys_go_on_and_usage_is_written_later(store: Store, redis_server: RedisServer) -> None:
    made = ApiKey(name="bob", sha256=sha256_of(SECRET), ending="test", created_at=datetime.now(UTC))
    store.api_keys.add(made)
    keys, recorder = KeyWatcher(store, "owner-key"), Recorder(store, "secret")
    keys.start()
    recorder.start()
    try:
        assert keys.table.find(SECRET.encode(), time.time()) is not None
        redis_server.stop()
        recorder.take(tally(recorder))
        time.sleep(2.5)
        assert keys.table.find(SECRET.encode(), time.time()) is not None
        assert b'bouchet_tokens_total{model="",kind="output"} 7' in recorder.metrics()
        revived = start_redis(redis_server.directory, redis_server.port)
        try:
            within(30, lambda: [line.output_tokens for line in recorded(store)] == [7])
            store.api_keys.revoke("bob")
            within(30, lambda: keys.table.find(SECRET.encode(), time.time()) is None)
        finally:
            revived.stop()
    finally:
        recorder.stop()
        keys.stop()


def test_without_redis_from_the_start_the_owner_is_let_in(store: Store, redis_server: RedisServer) -> None:
    redis_server.stop()
    keys = KeyWatcher(store, "owner-key")
    keys.start()
    try:
        assert keys.table.find(b"owner-key", time.time()) is not None
        assert keys.table.find(SECRET.encode(), time.time()) is None
    finally:
        keys.stop()


def test_what_is_left_is_written_at_the_end(store: Store) -> None:
    recorder = Recorder(store, "secret")
    recorder.start()
    recorder.take(tally(recorder))
    recorder.stop()
    assert [line.requests for line in recorded(store)] == [1]


def tally(recorder: Recorder) -> Tally:
    made = Tally(Caller("bob"), Endpoint.MESSAGES, recorder.live)
    made.answered(200, Tokens(3, 0, 7))
    return made


def recorded(store: Store) -> list[UsageSummary]:
    return store.usage.summaries(UsageBy.KEY, time.time() - 60, time.time())
