"""Unrecorded jobs: this installation's own become records again after a loss of Redis, the others are listed."""

from __future__ import annotations

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.errors import UnreadableRecordError
from bouchet_core.tunnel import SlotTarget
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.cleanup import clean_up
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.orphans import cancel_orphan, list_orphans
from bouchet_worker.reconcile.recovery import RECOVERED, parse_job_name

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeJob, FakeSlurm
from tests.worker.scenario import Clock, MakeWorkerContext, WorkerScenario, requested

from .unrecorded import body_of, flush, launch_elsewhere


@pytest.mark.parametrize(
    ("name", "deployment"),
    [
        ("bouchet-x7k2m4qfh3ab-1", "x7k2m4qfh3ab"),
        ("bouchet-aa-12", "aa"),
        ("bouchet-aa-0", None),
        ("bouchet-download-3", None),
        ("bouchet-download-qwen-3", None),
        ("bouchet-aa-1; rm -rf", None),
        ("xbouchet-aa-1", None),
        ("bouchet-aa", None),
        ("train", None),
    ],
)
def test_parse_job_name_accepts_only_serving_jobs(name: str, deployment: str | None) -> None:
    assert parse_job_name(name) == deployment


def test_flushed_redis_recovers_records_which_become_ready(
    scenario: WorkerScenario, redis_server: RedisServer, clock: Clock
) -> None:
    job_id = scenario.ready()
    before = scenario.get()
    flush(redis_server)
    clock.advance(3600)
    scenario.step(4)
    after = scenario.get()
    assert after.phase is Phase.READY
    for field in ("id", "names", "request", "traits", "created_at"):
        assert getattr(after, field) == getattr(before, field), field
    assert after.job is not None and before.job is not None
    for field in ("name", "slurm_id", "placement", "log", "port", "node", "image_sha256", "window", "sealed_key"):
        assert getattr(after.job, field) == getattr(before.job, field), field
    assert scenario.slurm.programs().count("sbatch") == 1 and job_id == after.job.slurm_id
    assert scenario.context.store.slot_target(after.job.slot) is not None


def test_flushed_redis_is_noticed_while_nothing_is_live(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    scenario.launch()
    scenario.step()
    flush(redis_server)
    scenario.slurm.fault = lambda method, what: "tunnel_down"
    scenario.step(2)
    assert scenario.context.store.live() == []
    scenario.slurm.fault = lambda method, what: None
    scenario.step()
    assert scenario.get().is_live and scenario.get().reason


def test_unreachable_record_file_is_read_again(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    scenario.launch()
    flush(redis_server)
    scenario.slurm.fault = lambda method, what: "tunnel_down" if what.endswith("record.json") else None
    scenario.step(2)
    assert scenario.context.store.live() == [] and scenario.context.store.orphans.seen() == ()
    scenario.slurm.fault = lambda method, what: None
    scenario.step()
    assert scenario.get().reason == RECOVERED


def test_job_of_an_unreadable_record_is_neither_recovered_nor_an_orphan(
    scenario: WorkerScenario, redis_server: RedisServer
) -> None:
    # nothing is cleaned up before the first launch
    scenario.slurm.files.clear()
    job_id = scenario.launch()
    body_of(redis_server, "aa", lambda body: body.replace('"phase":"queued"', '"phase":"asleep"'))
    scenario.launch("bb")
    scenario.step()
    assert scenario.get("bb").phase is Phase.QUEUED, "the others are still looked after"
    assert list_orphans(scenario.context) == () and scenario.context.store.live() == [scenario.get("bb")]
    with pytest.raises(UnreadableRecordError):
        cancel_orphan(scenario.context, job_id)
    assert clean_up(scenario.context) is None and scenario.slurm.cleanup_requests == []
    body_of(redis_server, "aa", lambda body: body.replace('"phase":"asleep"', '"phase":"queued"'))
    scenario.step()
    assert scenario.get("aa").is_live and clean_up(scenario.context) is not None


def test_new_worker_compares_jobs_with_records_once(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    scenario.slurm.finish(job_id, "COMPLETED")
    scenario.step()
    assert not scenario.get().is_live
    scenario.slurm.calls.clear()
    new = ReconcileLoop(scenario.context, scenario.loop.observer, scenario.loop.enqueue)
    for _ in range(3):
        new.step()
    assert scenario.slurm.programs() == ["squeue"]


def test_name_taken_since_the_loss_stays_with_its_new_owner(
    scenario: WorkerScenario, redis_server: RedisServer, clock: Clock
) -> None:
    scenario.launch()
    alias = scenario.get().alias
    flush(redis_server)
    scenario.context.store.create(requested("cc", clock()).model_copy(update={"names": (alias,)}))
    scenario.step()
    assert scenario.context.store.get(alias).id == "cc"
    recovered = scenario.get("aa")
    assert recovered.is_live and recovered.alias == f"{alias}-aa"


def test_job_with_a_live_record_is_not_recovered(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    before = context.store.get("aa")
    assert list_orphans(context) == ()
    assert context.store.get("aa") == before


def test_job_of_another_installation_is_listed_and_left_alone(
    scenario: WorkerScenario, make_context: MakeWorkerContext, redis_server: RedisServer, clock: Clock
) -> None:
    job_id = launch_elsewhere(make_context, scenario.context.store, clock)
    flush(redis_server)
    scenario.step(2)
    assert scenario.context.store.live() == []
    (orphan,) = scenario.context.store.orphans.seen()
    assert (orphan.slurm_id, orphan.owner) == (job_id, "another")
    assert (orphan.model, orphan.can_adopt) == ("demo/scripted", True)
    scenario.slurm.finish(job_id, "COMPLETED")
    assert list_orphans(scenario.context) == ()


def test_job_without_a_free_slot_is_listed_with_the_reason(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    scenario.launch()
    flush(redis_server)
    for n in range(scenario.context.slot_count):
        scenario.context.store.take_slot(f"other{n}", "job", scenario.context.slot_count)
    scenario.step()
    (orphan,) = scenario.context.store.orphans.seen()
    assert orphan.owner == "this" and "slots" in orphan.note


def test_slot_that_was_taken_for_no_record_is_free_again(scenario: WorkerScenario) -> None:
    scenario.ready()
    store = scenario.context.store
    # as a worker that is killed while it attaches a server leaves it
    lost = store.take_slot("gone", "attached-gone", scenario.context.slot_count)
    store.lead_slot(lost, SlotTarget(node="node1", port=8000, deployment="gone", attached=True))
    scenario.clock.advance(60)
    scenario.step()
    scenario.clock.advance(4 * 60)
    scenario.step()
    assert store.slot_owners() == {0: "aa/bouchet-aa-1", lost: "gone/attached-gone"}, "it may still get its record"
    scenario.clock.advance(2 * 60)
    scenario.step()
    assert store.slot_owners() == {0: "aa/bouchet-aa-1"} and store.slot_target(lost) is None
    assert store.slot_target(0) is not None, "a record's own"


def test_slot_of_a_record_that_came_late_stays(scenario: WorkerScenario) -> None:
    scenario.ready()
    store = scenario.context.store
    slot = store.take_slot("late", "attached-late", scenario.context.slot_count)
    scenario.clock.advance(60)
    scenario.step()
    scenario.clock.advance(6 * 60)
    assert not store.release_lost_slot(slot, "other/attached-late")
    store.create(scenario.get().model_copy(update={"id": "late", "names": ("late",), "jobs": (), "version": 0}))
    assert not store.release_lost_slot(slot, "late/attached-late")
    scenario.step()
    assert slot in store.slot_owners()


def test_one_squeue_finds_unrecorded_jobs_too(scenario: WorkerScenario) -> None:
    scenario.launch()
    scenario.slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [])
    scenario.step()
    scenario.slurm.calls.clear()
    scenario.step(3)
    assert scenario.slurm.programs() == ["squeue"] * 3
    assert [orphan.slurm_id for orphan in scenario.context.store.orphans.seen()] == [900]
