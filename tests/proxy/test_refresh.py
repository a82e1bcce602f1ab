"""The threads that keep the tables current, with and without Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from bouchet_core.keys import ApiKey, sha256_of
from bouchet_core.store import Store
from bouchet_proxy.refresh import ROUTES_RETRY_S, KeyTableThread, RoutingTableThread
from bouchet_proxy.routing.table import Route

from tests.conftest import RedisServer, start_redis
from tests.proxy.environment import make_deployment
from tests.waiting import wait_for

SECRET = "sk-bouchet-of-a-test"


@pytest.fixture
def routes(store: Store) -> Iterator[RoutingTableThread]:
    thread = RoutingTableThread(store, {})
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def keys(store: Store) -> Iterator[KeyTableThread]:
    store.api_keys.add(ApiKey(name="bob", sha256=sha256_of(SECRET), ending="test", created_at=datetime.now(UTC)))
    thread = KeyTableThread(store, "owner-key")
    thread.start()
    yield thread
    thread.stop()


def is_known(keys: KeyTableThread, key: str = SECRET) -> bool:
    return keys.table.find(key.encode(), time.time()) is not None


def test_new_deployment_is_routed_at_once(routes: RoutingTableThread, store: Store) -> None:
    time.sleep(0.1)
    store.create(make_deployment())
    wait_for(lambda: isinstance(routes.table.find("tiny"), Route))


def test_without_redis_the_last_routing_table_stays_and_the_log_has_one_line(
    routes: RoutingTableThread, store: Store, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.create(make_deployment())
    wait_for(lambda: isinstance(routes.table.find("tiny"), Route))
    redis_server.stop()
    wait_for(lambda: "cannot refresh" in caplog.text)
    time.sleep(2 * ROUTES_RETRY_S)
    assert isinstance(routes.table.find("tiny"), Route)
    assert caplog.text.count("cannot refresh") == 1
    restarted = start_redis(redis_server.directory, redis_server.port)
    try:
        wait_for(lambda: "answers again" in caplog.text)
    finally:
        restarted.stop()


def test_without_redis_the_last_keys_stay(keys: KeyTableThread, store: Store, redis_server: RedisServer) -> None:
    redis_server.stop()
    time.sleep(1.0)
    assert is_known(keys)
    restarted = start_redis(redis_server.directory, redis_server.port)
    try:
        store.api_keys.revoke("bob")
        wait_for(lambda: not is_known(keys))
    finally:
        restarted.stop()


def test_without_redis_from_the_start_only_the_owner_is_known(store: Store, redis_server: RedisServer) -> None:
    redis_server.stop()
    keys = KeyTableThread(store, "owner-key")
    keys.start()
    try:
        assert is_known(keys, "owner-key") and not is_known(keys)
    finally:
        keys.stop()
