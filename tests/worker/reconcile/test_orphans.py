"""Adopting and cancelling unrecorded jobs."""

from __future__ import annotations

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_core.errors import OrphanRefusedError, UnknownOrphanError
from bouchet_core.keys import installation_id, job_key, serving_key
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.orphans import adopt_orphan, cancel_orphan, list_orphans

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeJob, FakeSlurm
from tests.worker.scenario import ROOT, Clock, MakeWorkerContext, WorkerScenario, requested, write_connection

from .unrecorded import OTHER_SECRET, flush, launch_elsewhere


def test_adopted_job_of_another_installation_is_reached_with_its_own_key(
    scenario: WorkerScenario, make_context: MakeWorkerContext, redis_server: RedisServer, clock: Clock
) -> None:
    job_id = launch_elsewhere(make_context, scenario.context.store, clock)
    flush(redis_server)
    record = adopt_orphan(scenario.context, job_id)
    assert record.job is not None and record.job.sealed_key is not None
    theirs = serving_key(OTHER_SECRET, record.job.name)
    assert job_key(scenario.context.serving_secret, record.job.name, record.job.sealed_key) == theirs
    assert theirs not in record.model_dump_json()
    assert record.launched_by == installation_id(OTHER_SECRET)
    scenario.slurm.start(job_id)
    write_connection(scenario.slurm, job_id)
    scenario.slot0.vllm.key = theirs
    scenario.step(3)
    ready = scenario.get("bb")
    assert ready.phase is Phase.READY and ready.job is not None and ready.job.window == 4321
    flush(redis_server)
    scenario.step(3)
    recovered = scenario.get("bb")
    assert recovered.phase is Phase.READY and recovered.job is not None
    assert recovered.job.sealed_key == record.job.sealed_key, "it is ours now, after a loss too"
    assert recovered.launched_by == record.launched_by, "and who launched it stays known"


def test_job_of_ended_deployment_is_adopted_as_a_new_deployment(scenario: WorkerScenario, clock: Clock) -> None:
    job_id = scenario.launch()
    scenario.context.store.update("aa", lambda d: d.moved(Phase.ENDED, clock(), ending=Ending.FAILED, reason="lost"))
    (orphan,) = list_orphans(scenario.context)
    assert (orphan.owner, orphan.slurm_id) == ("this", job_id) and "lost" in orphan.note
    record = adopt_orphan(scenario.context, job_id)
    assert record.id != "aa" and record.is_live
    assert not scenario.get("aa").is_live
    assert list_orphans(scenario.context) == ()
    with pytest.raises(OrphanRefusedError, match=record.id):
        adopt_orphan(scenario.context, job_id)


def test_job_without_record_file_can_be_cancelled_and_not_adopted(
    scenario: WorkerScenario, redis_server: RedisServer
) -> None:
    job_id = scenario.launch()
    flush(redis_server)
    del scenario.slurm.files[f"{ROOT}/jobs/bouchet-aa-1/record.json"]
    scenario.step()
    (orphan,) = scenario.context.store.orphans.seen()
    assert (orphan.owner, orphan.can_adopt) == ("unknown", False)
    with pytest.raises(OrphanRefusedError):
        adopt_orphan(scenario.context, job_id)
    cancel_orphan(scenario.context, job_id)
    assert scenario.slurm.calls[-1] == ["scancel", str(job_id)]
    assert scenario.context.store.orphans.seen() == ()


@pytest.mark.parametrize(
    ("job_id", "error"),
    [(101, OrphanRefusedError), (900, OrphanRefusedError), (901, UnknownOrphanError), (902, UnknownOrphanError)],
    ids=["recorded", "without folder", "not ours", "not in the queue"],
)
def test_cancel_orphan_refuses_other_jobs(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock, job_id: int, error: type[Exception]
) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [])
    slurm.jobs[901] = FakeJob(901, "train", "day", [])
    with pytest.raises(error):
        cancel_orphan(context, job_id)
    assert "scancel" not in slurm.programs()


def test_second_job_of_a_recorded_name_can_be_cancelled(scenario: WorkerScenario) -> None:
    scenario.launch()
    scenario.slurm.jobs[900] = FakeJob(900, "bouchet-aa-1", "gpu_h200", [])
    scenario.step()
    (orphan,) = scenario.context.store.orphans.seen()
    assert (orphan.slurm_id, orphan.owner) == (900, "this") and "aa" in orphan.note
    cancel_orphan(scenario.context, 900)
    assert [job.job_id for job in scenario.slurm.jobs.values() if job.is_over] == [900]
