"""Cancellation of deployments."""

from __future__ import annotations

from bouchet_core.deployments import Ending, Phase
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.slurm.submission import HAS_ENDED, NOT_QUEUED, NOTHING_TO_DO, RETRY_LATER

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import Clock, requested


def test_cancel_before_submission_ends_the_deployment(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    cancel(context, "aa")
    assert context.store.get("aa").ending is Ending.CANCELLED
    assert submit(context, "aa") == NOTHING_TO_DO
    assert not slurm.jobs
    assert cancel(context, "aa") == HAS_ENDED


def test_cancel_of_unknown_deployment_does_nothing(context: WorkerContext, slurm: FakeSlurm) -> None:
    assert cancel(context, "gone") == "no such deployment"
    assert slurm.calls == []


def test_cancel_uses_the_job_id_and_keeps_the_record_live(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    assert cancel(context, "aa") == "cancelled job 101"
    assert slurm.calls[-1] == ["scancel", "101"]
    assert context.store.get("aa").is_live


def test_cancel_of_ready_deployment_lets_it_finish_then_kills_it(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    context.store.update("aa", lambda d: d.moved(Phase.STARTING, clock()))
    address = {"node": "node1", "port": 1}
    context.store.update("aa", lambda d: d.with_job(d.jobs[-1].model_copy(update=address), clock()))
    context.store.update("aa", lambda d: d.moved(Phase.READY, clock()))
    cancel(context, "aa")
    assert slurm.calls[-1] == ["scancel", "--batch", "--signal=TERM", "101"]
    assert context.store.get("aa").phase is Phase.DRAINING
    assert context.store.slot_target(0) is not None, "open requests still reach it"
    slurm.jobs[101].state = "RUNNING"
    clock.advance(60)
    cancel(context, "aa")
    assert slurm.calls[-1] == ["scancel", "101"]


def test_cancel_leaves_a_job_with_another_name(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    slurm.jobs[101].name = "another-job"
    assert cancel(context, "aa") == NOT_QUEUED
    assert "scancel" not in slurm.programs()


def test_cancel_finds_a_job_whose_answer_was_lost(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None
    submit(context, "aa")
    assert cancel(context, "aa") == "cancelled job 101"
    record = context.store.get("aa")
    assert record.job is not None and record.job.slurm_id == 101


def test_cancel_waits_for_an_sbatch_that_may_still_arrive(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: "command_timeout" if what == "sbatch" else None
    submit(context, "aa")
    assert cancel(context, "aa") == RETRY_LATER
    clock.advance(60)
    cancel(context, "aa")
    assert context.store.get("aa").ending is Ending.CANCELLED and not slurm.jobs


def test_cancel_without_tunnel_is_retried(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    slurm.fault = lambda method, what: "tunnel_down"
    assert cancel(context, "aa") == RETRY_LATER
    assert "will be cancelled" in context.store.get("aa").reason
    slurm.fault = lambda method, what: None
    assert cancel(context, "aa") == "cancelled job 101"
