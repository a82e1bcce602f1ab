"""Leases, heartbeats, and the store's errors, against a real Redis."""

from __future__ import annotations

import pytest
from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import RedisLogin, Store

from tests.waiting import wait_for


def test_release_by_another_owner_keeps_lease(store: Store) -> None:
    assert store.lease("submit:aa", "one", 60)
    store.release("submit:aa", "two")
    assert not store.lease("submit:aa", "two", 60)
    store.release("submit:aa", "one")
    assert store.lease("submit:aa", "two", 60)


def test_lease_has_one_owner_until_it_expires(store: Store) -> None:
    assert store.lease("loop", "one", 60)
    assert not store.lease("loop", "two", 60)
    assert store.lease("loop", "one", 0.05)
    wait_for(lambda: store.lease("loop", "two", 60))
    assert not store.lease("loop", "one", 60)


def test_heartbeat_expires(store: Store) -> None:
    assert not store.beats("worker")
    store.beat("worker", 60)
    assert store.beats("worker")
    store.beat("worker", 0.05)
    wait_for(lambda: not store.beats("worker"))


def test_ping_without_redis_raises_store_unavailable() -> None:
    with pytest.raises(StoreUnavailableError, match="make logs"):
        Store.connect(RedisLogin("127.0.0.1", 1)).ping()


def test_queue_connection_reads_bytes_of_the_same_redis(store: Store) -> None:
    queue = store.queue_connection()
    queue.set("seen", "ü")
    assert queue.get("seen") == "ü".encode()
    queue.close()


def test_errors_mapped_maps_errors_of_the_queue() -> None:
    queue = Store.connect(RedisLogin("127.0.0.1", 1)).queue_connection()
    with pytest.raises(StoreUnavailableError), Store.errors_mapped():
        queue.ping()
