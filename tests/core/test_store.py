"""The store against a real Redis: nothing half-written, nothing moved twice."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase
from bouchet_core.errors import (
    NameTakenError,
    NoFreeSlotError,
    StaleRecordError,
    StoreUnavailableError,
    UnknownDeploymentError,
)
from bouchet_core.store import FIRST_EVENT, Store

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def deployment(identity: str, *names: str, created: datetime = NOW) -> Deployment:
    return Deployment(
        id=identity,
        model="demo/scripted",
        names=names or (f"bouchet-{identity}",),
        request=LaunchRequest(model="demo/scripted"),
        created_at=created,
        updated_at=created,
    )


def running(record: Deployment, slot: int) -> Deployment:
    job = Job(name=f"bouchet-{record.id}-1", slot=slot, slurm_id=7, node="node1", port=18000)
    moved = record.moved(Phase.SUBMITTING, NOW).with_job(job, NOW)
    return moved.moved(Phase.QUEUED, NOW).moved(Phase.STARTING, NOW).model_copy(update={"version": 1})


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    record = running(deployment("aa"), 3).model_copy(update={"version": 0})
    store.create(record)
    assert store.get("aa") == record
    assert store.get("bouchet-aa") == record
    assert [d.id for d in store.live()] == ["aa"]


def test_an_unknown_record_is_an_error_not_none(store: Store) -> None:
    with pytest.raises(UnknownDeploymentError, match="bouchet status"):
        store.get("zz")


def test_a_taken_name_leaves_nothing_behind(store: Store) -> None:
    store.create(deployment("aa", "one"))
    with pytest.raises(NameTakenError, match="served by deployment aa"):
        store.create(deployment("bb", "two", "one"))
    assert [d.id for d in store.page()] == ["aa"]
    store.create(deployment("cc", "two"))


def test_of_two_launches_of_one_name_one_wins(store: Store) -> None:
    def attempt(n: int) -> bool:
        try:
            store.create(deployment(f"d{n}", "same"))
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(24))) == 1
    assert len(store.live()) == 1


def test_the_same_idempotency_key_makes_one_record(store: Store) -> None:
    first = store.create(deployment("aa"), once="k")
    assert store.create(deployment("bb"), once="k") == first
    assert len(store.page()) == 1


def test_a_save_on_an_old_version_is_refused(store: Store) -> None:
    record = store.create(deployment("aa"))
    store.save(record.moved(Phase.SUBMITTING, NOW))
    with pytest.raises(StaleRecordError):
        store.save(record.moved(Phase.ENDED, NOW, ending=Ending.CANCELLED))
    assert store.get("aa").phase is Phase.SUBMITTING


def test_concurrent_updates_are_all_applied(store: Store) -> None:
    store.create(deployment("aa"))

    def note(n: int) -> None:
        store.update("aa", lambda d: d.moved(d.phase, NOW, reason=d.reason + "x"), tries=200)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(40)))
    assert store.get("aa").reason == "x" * 40


def test_the_end_gives_names_slot_and_target_back(store: Store) -> None:
    record = store.create(deployment("aa"))
    slot = store.take_slot("aa", 2)
    live = store.save(running(record, slot))
    target = store.slot_target(slot)
    assert target is not None and (target.node, target.port, target.deployment) == ("node1", 18000, "aa")
    store.save(live.moved(Phase.ENDED, NOW, ending=Ending.COMPLETED))
    assert store.slot_target(slot) is None
    assert store.live() == []
    assert store.take_slot("bb", 2) == slot
    store.create(deployment("cc", "bouchet-aa"))


def test_a_slot_is_kept_and_never_given_twice(store: Store) -> None:
    assert [store.take_slot("aa", 2), store.take_slot("bb", 2), store.take_slot("aa", 2)] == [0, 1, 0]
    with pytest.raises(NoFreeSlotError, match="all 2 slots"):
        store.take_slot("cc", 2)


def test_every_change_is_an_event_in_order(store: Store) -> None:
    assert store.last_event() == FIRST_EVENT
    record = store.create(deployment("aa"))
    store.save(record.moved(Phase.SUBMITTING, NOW, reason="staging"))
    events = store.events(FIRST_EVENT)
    assert [(e.deployment, e.phase, e.reason) for e in events] == [
        ("aa", Phase.REQUESTED, ""),
        ("aa", Phase.SUBMITTING, "staging"),
    ]
    assert store.events(events[0].id) == events[1:]
    assert store.events(store.last_event(), wait_s=0.05) == []


def test_pages_are_newest_first(store: Store) -> None:
    for n in range(5):
        store.create(deployment(f"d{n}", created=NOW + timedelta(minutes=n)))
    assert [d.id for d in store.page(limit=2, offset=1)] == ["d3", "d2"]


def test_a_lease_is_given_back_by_its_owner_alone(store: Store) -> None:
    assert store.lease("submit:aa", "one", 60)
    store.release("submit:aa", "two")
    assert not store.lease("submit:aa", "two", 60)
    store.release("submit:aa", "one")
    assert store.lease("submit:aa", "two", 60)


def test_a_lease_has_one_owner_until_it_lapses(store: Store) -> None:
    assert store.lease("loop", "one", 60)
    assert not store.lease("loop", "two", 60)
    assert store.lease("loop", "one", 0.05)
    deadline = time.monotonic() + 30
    while not store.lease("loop", "two", 60):
        assert time.monotonic() < deadline
    assert not store.lease("loop", "one", 60)


def test_a_heartbeat_lapses(store: Store) -> None:
    assert not store.beats("worker")
    store.beat("worker", 60)
    assert store.beats("worker")


def test_what_could_not_be_asked_is_kept_with_its_beginning(store: Store) -> None:
    assert store.outage.current() is None
    store.outage.record("squeue hangs", NOW)
    store.outage.record("sacct hangs", NOW + timedelta(seconds=20))
    told = store.outage.current()
    assert told is not None and (told.since, told.detail) == (NOW, "sacct hangs")
    store.outage.clear()
    assert store.outage.current() is None


def test_a_dead_redis_is_one_error_of_ours() -> None:
    with pytest.raises(StoreUnavailableError, match="make logs"):
        Store.connect("127.0.0.1", 1, None).ping()


def test_the_queue_gets_bytes_from_the_same_redis(store: Store) -> None:
    queue = store.queue_connection()
    queue.set("seen", "ü")
    assert queue.get("seen") == "ü".encode()
    queue.close()


def test_what_goes_wrong_in_the_queue_is_the_stores_error() -> None:
    queue = Store.connect("127.0.0.1", 1, None).queue_connection()
    with pytest.raises(StoreUnavailableError), Store.errors_mapped():
        queue.ping()
