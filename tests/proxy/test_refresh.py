"""The threads that keep the tables current, with and without Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NoReturn

import httpx
import pytest
from bouchet_core.keys import ApiKey, sha256_of
from bouchet_core.store import Store
from bouchet_proxy import refresh
from bouchet_proxy.refresh import KeyTableThread, RoutingTableThread
from bouchet_proxy.routing.table import Route

from tests.conftest import RedisServer, start_redis
from tests.proxy.client import HTTP, error_of
from tests.proxy.environment import ProxyEnvironment, RunningProxy, make_deployment, run_app
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


def unreadable_record() -> NoReturn:
    """Fail like a store whose record was written by another version."""
    raise ValueError("a record that cannot be read")


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
    time.sleep(2 * refresh.ROUTES_RETRY_S)
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


def test_unreadable_record_does_not_end_the_thread(
    routes: RoutingTableThread, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as spoiled:
        spoiled.setattr(store, "live", unreadable_record)
        store.create(make_deployment())
        wait_for(lambda: "cannot refresh the routing table" in caplog.text)
        time.sleep(2 * refresh.ROUTES_RETRY_S)
    assert caplog.text.count("cannot refresh") == 1 and "ValueError" in caplog.text
    wait_for(lambda: isinstance(routes.table.find("tiny"), Route))


def test_start_with_an_unreadable_record_succeeds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = RoutingTableThread(store, {}, stale_s=0.2)
    with monkeypatch.context() as spoiled:
        spoiled.setattr(store, "live", unreadable_record)
        thread.start()
        wait_for(thread.problem)
        assert "cannot be read" in thread.problem()
    # renewed every half second, it is stale again after 0.2 s
    wait_for(lambda: not thread.problem(), pause_s=0.02)
    thread.stop()


def test_stale_keys_are_refused_while_redis_answers(
    store: Store, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    store.api_keys.add(ApiKey(name="bob", sha256=sha256_of(SECRET), ending="test", created_at=datetime.now(UTC)))
    keys = KeyTableThread(store, "owner-key", stale_s=1.0)
    keys.start()
    try:
        with monkeypatch.context() as spoiled:
            spoiled.setattr(store.api_keys, "all", unreadable_record)
            store.api_keys.revoke("bob")
            wait_for(lambda: not is_known(keys))
            assert is_known(keys, "owner-key") and "table of API keys" in keys.problem()
        store.api_keys.add(ApiKey(name="bob", sha256=sha256_of(SECRET), ending="test", created_at=datetime.now(UTC)))
        wait_for(lambda: is_known(keys))
        redis_server.stop()
        wait_for(keys.problem)
        assert is_known(keys)
    finally:
        keys.stop()


@pytest.mark.slow
def test_liveness_fails_while_a_table_is_not_renewed(
    environment: ProxyEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_app(environment, stale_s=refresh.ROUTES_REREAD_S + 1) as proxy:
        with monkeypatch.context() as spoiled:
            # the app has a store of its own
            spoiled.setattr(Store, "live", lambda store: unreadable_record())
            # a busy machine may be late with the other table too
            wait_for(lambda: live(proxy).status_code == 503 and "routing table" in error_of(live(proxy))["message"])
        wait_for(lambda: live(proxy).status_code == 200)


def live(proxy: RunningProxy) -> httpx.Response:
    return HTTP.get(f"{proxy.url}/health/liveliness")
