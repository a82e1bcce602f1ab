from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest
from bouchet_core.store import Store
from bouchet_proxy.routing.table import Route
from bouchet_proxy.routing.watcher import TableWatcher

from tests.conftest import RedisServer, start_redis
from tests.proxy.running import deployment


@pytest.fixture
def watcher(store: Store) -> Iterator[TableWatcher]:
    watcher = TableWatcher(store, {})
    watcher.start()
    yield watcher
    watcher.stop()


def within(limit_s: float, condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        time.sleep(0.005)
    return time.monotonic() - began


def test_a_new_deployment_is_routed_at_once(watcher: TableWatcher, store: Store) -> None:
    time.sleep(0.1)
    store.create(deployment())
    within(30, lambda: isinstance(watcher.table.find("tiny"), Route))


def test_without_redis_the_last_table_stays_and_the_log_says_so_once(
    watcher: TableWatcher, store: Store, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.create(deployment())
    within(30, lambda: isinstance(watcher.table.find("tiny"), Route))
    redis_server.stop()
    within(30, lambda: "stays as it is" in caplog.text)
    time.sleep(2.5)
    assert isinstance(watcher.table.find("tiny"), Route)
    assert caplog.text.count("stays as it is") == 1
    revived = start_redis(redis_server.directory, redis_server.port)
    try:
        within(30, lambda: "answers again" in caplog.text)
    finally:
        revived.stop()
