"""Jobs without a record: found again after Redis was emptied, told apart by installation, taken over, cancelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_core.errors import OrphanRefusedError, UnknownOrphanError
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import job_key, serving_key
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.orphans import adopt_orphan, cancel_orphan, list_orphans
from bouchet_worker.reconcile.recovery import RECOVERED, parse_job_name

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeJob, FakeSlurm
from tests.worker.scenario import ROOT, Clock, MakeWorkerContext, Slot0, WorkerScenario, requested, write_connection

OTHER_SECRET = "the secret of another laptop"


@pytest.fixture
def stage(
    context: WorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> Iterator[WorkerScenario]:
    stage = WorkerScenario(context, gateway, slot0, slurm, clock)
    yield stage
    stage.probe.close()


def empty(redis_server: RedisServer) -> None:
    """FLUSHALL: everything is forgotten."""
    connection = redis_server.store().queue_connection()
    connection.flushall()
    connection.close()


def other_launches(make_context: MakeWorkerContext, store: Store, clock: Clock, identity: str = "bb") -> int:
    """Another installation's job on the same cluster; its records lie elsewhere. The Slurm id."""
    store.create(requested(identity, clock(), partition="gpu_h200"))
    context = make_context("elsewhere", serving_secret=OTHER_SECRET)
    submit(context, identity)
    job = store.get(identity).job
    assert job is not None and job.slurm_id is not None
    return job.slurm_id


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
def test_only_our_kind_of_name_is_looked_at(name: str, deployment: str | None) -> None:
    assert parse_job_name(name) == deployment


def test_an_emptied_redis_gets_its_live_records_back_and_they_become_ready(
    stage: WorkerScenario, redis_server: RedisServer, clock: Clock
) -> None:
    job_id = stage.ready()
    before = stage.get()
    empty(redis_server)
    clock.advance(3600)
    stage.step(4)
    after = stage.get()
    assert after.phase is Phase.READY
    assert (after.id, after.names, after.request, after.traits) == (
        before.id,
        before.names,
        before.request,
        before.traits,
    )
    assert after.created_at == before.created_at and after.job is not None and before.job is not None
    for fact in ("name", "slurm_id", "placement", "log", "port", "node", "image_sha256", "window", "sealed_key"):
        assert getattr(after.job, fact) == getattr(before.job, fact), fact
    assert stage.slurm.programs().count("sbatch") == 1 and job_id == after.job.slurm_id
    assert stage.context.store.slot_target(after.job.slot) is not None


def test_an_emptied_redis_is_noticed_while_nothing_else_lives(stage: WorkerScenario, redis_server: RedisServer) -> None:
    stage.launch()
    stage.step()
    empty(redis_server)
    stage.slurm.fault = lambda method, what: "tunnel_down"
    stage.step(2)
    assert stage.context.store.live() == []
    stage.slurm.fault = lambda method, what: None
    stage.step()
    assert stage.get().is_live and stage.get().reason


def test_a_file_that_could_not_be_asked_for_is_asked_for_again(
    stage: WorkerScenario, redis_server: RedisServer
) -> None:
    stage.launch()
    empty(redis_server)
    stage.slurm.fault = lambda method, what: "tunnel_down" if what.endswith("record.json") else None
    stage.step(2)
    assert stage.context.store.live() == [] and stage.context.store.orphans.seen() == ()
    stage.slurm.fault = lambda method, what: None
    stage.step()
    assert stage.get().reason == RECOVERED


def test_a_new_worker_compares_once(stage: WorkerScenario) -> None:
    stage.launch()
    job = stage.get().job
    assert job is not None and job.slurm_id is not None
    stage.slurm.finish(job.slurm_id, "COMPLETED")
    stage.step()
    assert not stage.get().is_live
    stage.slurm.calls.clear()
    again = ReconcileLoop(stage.context, stage.loop.observer, stage.loop.enqueue)
    for _ in range(3):
        again.step()
    assert stage.slurm.programs() == ["squeue"]


def test_names_taken_meanwhile_stay_with_their_new_owner(
    stage: WorkerScenario, redis_server: RedisServer, clock: Clock
) -> None:
    stage.launch()
    alias = stage.get().alias
    empty(redis_server)
    stage.context.store.create(requested("cc", clock()).model_copy(update={"names": (alias,)}))
    stage.step()
    assert stage.context.store.get(alias).id == "cc"
    again = stage.get("aa")
    assert again.is_live and again.alias == f"{alias}-aa"


def test_a_record_that_is_made_while_we_look_is_no_stray(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    before = context.store.get("aa")
    assert list_orphans(context) == ()
    assert context.store.get("aa") == before


def test_another_installations_job_is_shown_and_left_alone(
    stage: WorkerScenario, make_context: MakeWorkerContext, redis_server: RedisServer, clock: Clock
) -> None:
    job_id = other_launches(make_context, stage.context.store, clock)
    empty(redis_server)
    stage.step(2)
    assert stage.context.store.live() == []
    (orphan,) = stage.context.store.orphans.seen()
    assert (orphan.slurm_id, orphan.owner, orphan.model, orphan.can_adopt) == (
        job_id,
        "another",
        "demo/scripted",
        True,
    )
    stage.slurm.finish(job_id, "COMPLETED")
    assert list_orphans(stage.context) == ()


def test_a_job_of_another_installation_that_is_taken_over_can_be_asked_with_its_own_key(
    stage: WorkerScenario, make_context: MakeWorkerContext, redis_server: RedisServer, clock: Clock
) -> None:
    job_id = other_launches(make_context, stage.context.store, clock)
    empty(redis_server)
    record = adopt_orphan(stage.context, job_id)
    assert record.job is not None and record.job.sealed_key is not None
    theirs = serving_key(OTHER_SECRET, record.job.name)
    assert job_key(stage.context.serving_secret, record.job.name, record.job.sealed_key) == theirs
    assert theirs not in record.model_dump_json()
    stage.slurm.start(job_id)
    write_connection(stage.slurm, job_id)
    stage.slot0.vllm.key = theirs
    stage.step(3)
    ready = stage.get("bb")
    assert ready.phase is Phase.READY and ready.job is not None and ready.job.window == 4321
    empty(redis_server)
    stage.step(3)
    again = stage.get("bb")
    assert again.phase is Phase.READY and again.job is not None
    assert again.job.sealed_key == record.job.sealed_key, "it is ours now, after a loss too"


def test_a_job_whose_deployment_has_ended_waits_for_a_persons_word(stage: WorkerScenario, clock: Clock) -> None:
    job_id = stage.launch()
    stage.context.store.update("aa", lambda d: d.moved(Phase.ENDED, clock(), ending=Ending.FAILED, reason="lost"))
    (orphan,) = list_orphans(stage.context)
    assert (orphan.owner, orphan.slurm_id) == ("this", job_id) and "lost" in orphan.note
    record = adopt_orphan(stage.context, job_id)
    assert record.id != "aa" and record.is_live
    assert not stage.get("aa").is_live
    assert list_orphans(stage.context) == ()
    with pytest.raises(OrphanRefusedError, match=record.id):
        adopt_orphan(stage.context, job_id)


def test_a_job_without_its_papers_can_be_cancelled_and_not_taken_over(
    stage: WorkerScenario, redis_server: RedisServer
) -> None:
    job_id = stage.launch()
    empty(redis_server)
    del stage.slurm.files[f"{ROOT}/jobs/bouchet-aa-1/record.json"]
    stage.step()
    (orphan,) = stage.context.store.orphans.seen()
    assert (orphan.owner, orphan.can_adopt) == ("unknown", False)
    with pytest.raises(OrphanRefusedError):
        adopt_orphan(stage.context, job_id)
    cancel_orphan(stage.context, job_id)
    assert stage.slurm.calls[-1] == ["scancel", str(job_id)]
    assert stage.context.store.orphans.seen() == ()


def test_only_jobs_of_ours_without_a_record_are_cancelled(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [])
    slurm.jobs[901] = FakeJob(901, "train", "day", [])
    for job_id, error in (
        (101, OrphanRefusedError),
        (900, OrphanRefusedError),
        (901, UnknownOrphanError),
        (902, UnknownOrphanError),
    ):
        with pytest.raises(error):
            cancel_orphan(context, job_id)
    assert "scancel" not in slurm.programs()


def test_without_a_slot_a_job_found_again_stays_listed_and_says_why(
    stage: WorkerScenario, redis_server: RedisServer
) -> None:
    stage.launch()
    empty(redis_server)
    for n in range(stage.context.slot_count):
        stage.context.store.take_slot(f"other{n}", stage.context.slot_count)
    stage.step()
    (orphan,) = stage.context.store.orphans.seen()
    assert orphan.owner == "this" and "slots" in orphan.note


def test_one_squeue_tells_of_strays_too(stage: WorkerScenario, make_context: MakeWorkerContext, clock: Clock) -> None:
    stage.launch()
    stage.slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [])
    stage.step()
    stage.slurm.calls.clear()
    stage.step(3)
    assert stage.slurm.programs() == ["squeue"] * 3
    assert [orphan.slurm_id for orphan in stage.context.store.orphans.seen()] == [900]


def test_a_second_job_of_a_name_is_shown_and_can_be_cancelled_by_its_id(stage: WorkerScenario) -> None:
    stage.launch()
    stage.slurm.jobs[900] = FakeJob(900, "bouchet-aa-1", "gpu_h200", [])
    stage.step()
    (orphan,) = stage.context.store.orphans.seen()
    assert (orphan.slurm_id, orphan.owner) == (900, "this") and "aa" in orphan.note
    cancel_orphan(stage.context, 900)
    assert [job.job_id for job in stage.slurm.jobs.values() if job.is_over] == [900]
