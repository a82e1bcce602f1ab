"""When the worker cleans up the cluster, and which jobs it reports as live and ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from bouchet_core.batch_jobs import BatchJobState, Download
from bouchet_core.deployments import Ending, Phase
from bouchet_core.errors import GatewayError, RemoteTimeoutError
from bouchet_worker.batch.download import submit_download
from bouchet_worker.context import WorkerContext
from bouchet_worker.reconcile import cleanup
from bouchet_worker.reconcile.cleanup import GRACE, INTERVAL, RETRY, CleanupScheduler, clean_up, kept_until

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import ROOT, Clock, MakeWorkerContext, WorkerScenario

KEY = f"{ROOT}/jobs/bouchet-aa-1/key"


@pytest.fixture
def cleaning(scenario: WorkerScenario) -> WorkerScenario:
    """Return a scenario on an unused cluster, whose loop cleans up in its own thread."""
    scenario.slurm.files.clear()
    scenario.loop.cleanup = CleanupScheduler(scenario.context, start=lambda work: work())
    return scenario


def step_after(scenario: WorkerScenario, time: timedelta) -> None:
    scenario.clock.advance(time.total_seconds())
    scenario.step()


def test_cleanup_of_unused_cluster_leaves_no_files(cleaning: WorkerScenario) -> None:
    cleaning.step()
    assert cleaning.slurm.files == {} and cleaning.slurm.cleanup_requests == []


def test_job_keeps_its_key_while_slurm_lists_it(cleaning: WorkerScenario) -> None:
    job_id = cleaning.ready()
    cleaning.slurm.requeue(job_id)
    step_after(cleaning, INTERVAL)
    cleaning.slurm.start(job_id)
    step_after(cleaning, INTERVAL)
    assert len(cleaning.slurm.cleanup_requests) == 2 and KEY in cleaning.slurm.files
    assert all(run["live"] == ["bouchet-aa-1"] and run["ended"] == [] for run in cleaning.slurm.cleanup_requests)
    live_ids: Sequence[object] = cleaning.slurm.cleanup_requests[-1]["live_ids"]
    assert live_ids == [job_id]


def test_key_is_removed_after_grace_period(cleaning: WorkerScenario) -> None:
    job_id = cleaning.ready()
    cleaning.slurm.finish(job_id, "FAILED", "1:0")
    cleaning.step(2)
    assert cleaning.get().phase is Phase.ENDED and KEY in cleaning.slurm.files, "Slurm may still requeue it"
    step_after(cleaning, GRACE)
    assert KEY not in cleaning.slurm.files
    runs = len(cleaning.slurm.cleanup_requests)
    step_after(cleaning, timedelta(hours=1))
    assert len(cleaning.slurm.cleanup_requests) == runs
    step_after(cleaning, INTERVAL)
    assert len(cleaning.slurm.cleanup_requests) == runs + 1


def test_keys_of_successive_ends_are_removed_one_after_the_other(cleaning: WorkerScenario) -> None:
    ids = {name: cleaning.launch(name, partition="gpu_h200") for name in ("aa", "bb")}
    keys = [f"{ROOT}/jobs/bouchet-{name}-1/key" for name in ids]
    for job_id in ids.values():
        cleaning.slurm.finish(job_id, "FAILED", "1:0")
        cleaning.step(2)
        cleaning.clock.advance(GRACE.total_seconds() / 2)
    cleaning.step()
    assert [key in cleaning.slurm.files for key in keys] == [False, True]
    step_after(cleaning, GRACE / 2)
    assert [key in cleaning.slurm.files for key in keys] == [False, False]


def test_job_requeued_after_its_end_keeps_its_key(cleaning: WorkerScenario) -> None:
    job_id = cleaning.ready()
    cleaning.slurm.finish(job_id, "NODE_FAIL")
    cleaning.step(2)
    assert cleaning.get().ending is Ending.FAILED
    cleaning.slurm.requeue(job_id)
    step_after(cleaning, GRACE)
    request = cleaning.slurm.cleanup_requests[-1]
    assert request["ended"] == request["live"] == ["bouchet-aa-1"]
    assert KEY in cleaning.slurm.files


def test_cleanup_removes_nothing_while_squeue_fails(cleaning: WorkerScenario) -> None:
    cleaning.slurm.finish(cleaning.ready(), "FAILED", "1:0")
    cleaning.step(2)
    cleaning.slurm.fault = lambda method, what: "command_timeout" if what == "squeue" else None
    runs = len(cleaning.slurm.cleanup_requests)
    step_after(cleaning, GRACE)
    assert len(cleaning.slurm.cleanup_requests) == runs and KEY in cleaning.slurm.files
    cleaning.slurm.fault = lambda method, what: None
    step_after(cleaning, RETRY)
    assert KEY not in cleaning.slurm.files


def test_cleanup_includes_batch_jobs(make_context: MakeWorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context = make_context(hub_token="hf_secret")
    record = Download(id="abcdefghijkl", model="a/b", created_at=clock(), updated_at=clock())
    context.store.downloads.create(record)
    submit_download(context, record.id)
    name = slurm.jobs[101].name
    clean_up(context)
    assert slurm.cleanup_requests[-1]["live"] == [name] and slurm.cleanup_requests[-1]["ended"] == []
    slurm.finish(101, "CANCELLED by 2001")
    context.store.downloads.update(record.id, lambda old: old.ended(clock(), BatchJobState.FAILED, "cancelled"))
    clock.advance(GRACE.total_seconds())
    result = clean_up(context)
    assert result is not None and result.secrets == (name,) and f"{ROOT}/jobs/{name}/token" not in slurm.files


def test_ended_record_has_the_date_when_its_files_are_removed(cleaning: WorkerScenario) -> None:
    cleaning.slurm.finish(cleaning.ready(), "COMPLETED")
    cleaning.step()
    ended = cleaning.get()
    assert ended.job is not None and ended.job.kept_until == ended.updated_at + timedelta(days=30)
    cleaning.step(2)
    assert cleaning.get() == ended


def test_site_without_keep_days_keeps_files_forever(
    make_context: MakeWorkerContext, context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    forever = make_context(site=context.site.model_copy(update={"keep_jobs_days": None}))
    assert kept_until(forever, clock()) is None
    slurm.files[f"{ROOT}/logs/README"] = b""
    clean_up(forever)
    assert slurm.cleanup_requests[-1]["keep_days"] is None


@pytest.mark.parametrize("output", ["Traceback", '{"secrets": 1}'])
def test_unreadable_cleanup_output_raises_gateway_error(
    context: WorkerContext, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    slurm.files[f"{ROOT}/logs/README"] = b""
    monkeypatch.setattr(slurm, "python3", lambda arguments: (0, output, ""))
    with pytest.raises(GatewayError, match=r"cleanup\.py"):
        clean_up(context)


def test_bug_in_cleanup_does_not_stop_the_loop(cleaning: WorkerScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: WorkerContext) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cleanup, "clean_up", broken)
    cleaning.ready()
    assert cleaning.get().phase is Phase.READY


def test_scheduler_starts_no_second_run_while_one_is_running(context: WorkerContext, clock: Clock) -> None:
    started: list[object] = []
    scheduler = CleanupScheduler(context, start=started.append)
    for _ in range(3):
        scheduler.run_if_due([])
        clock.advance(INTERVAL.total_seconds())
    assert len(started) == 1


def test_end_during_failing_runs_is_cleaned_up_later(cleaning: WorkerScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = cleaning.ready()

    def fails(context: WorkerContext) -> None:
        raise RemoteTimeoutError("the tunnel gateway did not answer in time")

    with monkeypatch.context() as patched:
        patched.setattr(cleanup, "clean_up", fails)
        cleaning.slurm.finish(job_id, "COMPLETED")
        cleaning.step(2)
        step_after(cleaning, GRACE)
    assert KEY in cleaning.slurm.files
    step_after(cleaning, RETRY)
    assert KEY not in cleaning.slurm.files
