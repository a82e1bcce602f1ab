"""Deployment records against a real Redis: changes are atomic, and of concurrent writers one wins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase
from bouchet_core.errors import (
    NameTakenError,
    NoFreeSlotError,
    StaleRecordError,
    UnknownDeploymentError,
)
from bouchet_core.store import FIRST_EVENT, Store
from bouchet_core.tunnel import TargetSigner, TunnelEvent, TunnelState

from tests.conftest import GATEWAY_TOKEN, RedisServer

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
    job = Job(name=f"bouchet-{record.id}-1", slot=slot, slurm_id=7, node="node1", port=20001)
    moved = record.moved(Phase.SUBMITTING, NOW).with_job(job, NOW)
    return moved.moved(Phase.QUEUED, NOW).moved(Phase.STARTING, NOW).model_copy(update={"version": 1})


def test_get_returns_the_created_record_by_id_and_name(store: Store) -> None:
    record = running(deployment("aa"), 3).model_copy(update={"version": 0})
    store.create(record)
    assert store.get("aa") == record
    assert store.get("bouchet-aa") == record
    assert [d.id for d in store.live()] == ["aa"]


def test_get_unknown_record_raises(store: Store) -> None:
    with pytest.raises(UnknownDeploymentError, match="bouchet status"):
        store.get("zz")


def test_live_has_every_change_of_other_writers(store: Store, redis_server: RedisServer) -> None:
    other = redis_server.store("api")
    store.create(deployment("aa"))
    assert store.live() == store.live() == [store.get("aa")]
    changed = other.update("aa", lambda old: old.asked_to_stop(NOW))
    added = other.create(deployment("bb", created=NOW + timedelta(seconds=1)))
    assert store.live() == [changed, added] and store.get("aa") == changed
    gone = other.save(added.model_copy(update={"phase": Phase.ENDED, "ending": Ending.FAILED, "version": 1}))
    assert store.live() == [changed] and store.get("bb") == gone
    other.close()


def test_unchanged_live_records_are_not_parsed_again(store: Store) -> None:
    store.create(deployment("aa"))
    [first], [second] = store.live(), store.live()
    assert first is second is store.get("aa")


def test_update_of_a_record_that_was_read_before_does_not_overwrite_a_newer_change(store: Store) -> None:
    read = store.create(deployment("aa"))
    store.update("aa", lambda old: old.asked_to_stop(NOW))
    seen: list[int] = []

    def change(old: Deployment) -> Deployment:
        seen.append(old.version)
        return old.model_copy(update={"reason": "of the slower writer"})

    saved = store.update("aa", change, known=read)
    assert seen == [0, 1] and saved.version == 2
    assert saved.stop_requested_at == NOW and saved.reason == "of the slower writer"


def test_create_with_taken_name_stores_nothing(store: Store) -> None:
    store.create(deployment("aa", "one"))
    with pytest.raises(NameTakenError, match="served by deployment aa"):
        store.create(deployment("bb", "two", "one"))
    assert [d.id for d in store.page()] == ["aa"]
    store.create(deployment("cc", "two"))


def test_create_same_name_concurrently_stores_one(store: Store) -> None:
    def attempt(n: int) -> bool:
        try:
            store.create(deployment(f"d{n}", "same"))
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(24))) == 1
    assert len(store.live()) == 1


def test_create_with_same_idempotency_key_returns_first_record(store: Store) -> None:
    first = store.create(deployment("aa"), once="k")
    assert store.create(deployment("bb"), once="k") == first
    assert len(store.page()) == 1


def test_save_of_an_old_version_raises(store: Store) -> None:
    record = store.create(deployment("aa"))
    store.save(record.moved(Phase.SUBMITTING, NOW))
    with pytest.raises(StaleRecordError):
        store.save(record.moved(Phase.ENDED, NOW, ending=Ending.CANCELLED))
    assert store.get("aa").phase is Phase.SUBMITTING


def test_update_concurrently_applies_every_change(store: Store) -> None:
    store.create(deployment("aa"))

    def extend(n: int) -> None:
        store.update("aa", lambda d: d.moved(d.phase, NOW, reason=d.reason + "x"), tries=200)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(extend, range(40)))
    assert store.get("aa").reason == "x" * 40


def test_save_of_ended_deployment_releases_names_slot_and_target(store: Store) -> None:
    record = store.create(deployment("aa"))
    slot = store.take_slot("aa", "bouchet-aa-1", 2)
    live = store.save(running(record, slot))
    target = store.slot_target(slot)
    assert target is not None and (target.node, target.port, target.deployment) == ("node1", 20001, "aa")
    store.save(live.moved(Phase.ENDED, NOW, ending=Ending.COMPLETED))
    assert store.slot_target(slot) is None
    assert store.live() == []
    assert store.take_slot("bb", "job", 2) == slot
    store.create(deployment("cc", "bouchet-aa"))


def test_slot_target_is_written_only_by_a_store_that_signs(store: Store, redis_server: RedisServer) -> None:
    reader = Store.connect(redis_server.login())
    record = reader.create(deployment("aa"))
    live = reader.save(running(record, 0))
    assert store.slot_target(0) is None
    store.renew_targets([live], {})
    signed = store.slot_target(0)
    assert signed is not None and TargetSigner(GATEWAY_TOKEN).problem(0, signed) == ""
    later = reader.save(live.moved(Phase.READY, NOW))
    assert store.slot_target(0) == signed
    reader.save(later.moved(Phase.ENDED, NOW, ending=Ending.COMPLETED))
    assert store.slot_target(0) is None
    reader.close()


def test_renew_targets_of_an_older_version_of_the_record_writes_nothing(store: Store) -> None:
    old = store.save(running(store.create(deployment("aa")), 0))
    store.save(old.moved(Phase.ENDED, NOW, ending=Ending.COMPLETED))
    store.renew_targets([old], {})
    assert store.slot_target(0) is None


def test_take_slot_is_stable_and_exclusive(store: Store) -> None:
    assert [store.take_slot(one, "job", 2) for one in ("aa", "bb", "aa")] == [0, 1, 0]
    with pytest.raises(NoFreeSlotError, match="all 2 slots"):
        store.take_slot("cc", "job", 2)


def test_events_are_one_per_change_in_order(store: Store) -> None:
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


def test_page_is_newest_first(store: Store) -> None:
    for n in range(5):
        store.create(deployment(f"d{n}", created=NOW + timedelta(minutes=n)))
    assert [d.id for d in store.page(limit=2, offset=1)] == ["d3", "d2"]


def test_update_in_several_steps_raises_the_version_by_one(store: Store) -> None:
    store.create(deployment("aa"))
    changed = store.update("aa", lambda d: d.moved(Phase.SUBMITTING, NOW).moved(Phase.QUEUED, NOW))
    assert (changed.version, store.get("aa").phase) == (1, Phase.QUEUED)


def test_update_without_change_saves_nothing(store: Store) -> None:
    store.create(deployment("aa"))
    before = store.last_event()
    assert store.update("aa", lambda d: d).version == 0
    assert store.last_event() == before


def test_wait_for_events_returns_newest_ids_of_both_streams(store: Store) -> None:
    nothing = store.wait_for_events((FIRST_EVENT, FIRST_EVENT), 0.05)
    assert nothing == (FIRST_EVENT, FIRST_EVENT)
    store.create(deployment("aa"))
    assert store.wait_for_events(nothing, 1.0) == (store.last_event(), FIRST_EVENT)
    store.tunnel.append(TunnelEvent(state=TunnelState.UP, host="login", at=NOW))
    assert store.wait_for_events(nothing, 1.0) == (store.last_event(), store.tunnel.last_event())


def test_ended_since_lists_last_to_end_first(store: Store) -> None:
    for n in range(3):
        record = store.create(deployment(f"d{n}"))
        store.save(record.moved(Phase.ENDED, NOW + timedelta(minutes=n), ending=Ending.FAILED))
    store.create(deployment("live"))
    assert [d.id for d in store.ended_since(NOW + timedelta(seconds=30))] == ["d2", "d1"]
