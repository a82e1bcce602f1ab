"""The usage recorder, with and without Redis."""

from __future__ import annotations

import time

from bouchet_core.store import Store
from bouchet_proxy.api_keys import Caller
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.dialects.tokens import TokenCounts
from bouchet_proxy.usage import recorder as recorder_module
from bouchet_proxy.usage.recorder import UsageRecorder
from bouchet_proxy.usage.request import RequestUsage

from tests.conftest import RedisServer, start_redis
from tests.waiting import wait_for


def make_usage(recorder: UsageRecorder) -> RequestUsage:
    usage = RequestUsage(Caller("bob"), Endpoint.MESSAGES, recorder.active)
    usage.finish(200, TokenCounts(3, 0, 7))
    return usage


def recorded(store: Store) -> list[str]:
    """Return the output tokens of each request of that key."""
    return [request["output"] for request in store.usage.last() if request["key"] == "bob"]


def test_records_are_written_when_redis_is_back(store: Store, redis_server: RedisServer) -> None:
    recorder = UsageRecorder(store, "secret")
    recorder.start()
    try:
        redis_server.stop()
        recorder.add(make_usage(recorder))
        time.sleep(2 * recorder_module.FLUSH_S)
        assert b'bouchet_tokens_total{kind="output",model=""} 7' in recorder.render_metrics()
        restarted = start_redis(redis_server.directory, redis_server.port)
        try:
            wait_for(lambda: recorded(store) == ["7"])
        finally:
            restarted.stop()
    finally:
        recorder.stop()


def test_stop_writes_what_is_pending(store: Store) -> None:
    recorder = UsageRecorder(store, "secret")
    recorder.start()
    recorder.add(make_usage(recorder))
    recorder.stop()
    assert recorded(store) == ["7"]
