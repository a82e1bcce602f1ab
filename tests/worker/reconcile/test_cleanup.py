"""When the worker tidies the cluster, and what it says there is live and what has ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from bouchet_core.batch_jobs import BatchJobState, Download
from bouchet_core.deployments import Ending, Phase
from bouchet_core.errors import GatewayError, RemoteTimeoutError
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.batch.download import submit_download
from bouchet_worker.context import WorkerContext
from bouchet_worker.reconcile import cleanup as tidying
from bouchet_worker.reconcile.cleanup import GRACE, INTERVAL, RETRY, CleanupScheduler, clean_up, kept_until

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import ROOT, Clock, MakeWorkerContext, Slot0, WorkerScenario

KEY = f"{ROOT}/jobs/bouchet-aa-1/key"


@pytest.fixture
def stage(
    context: WorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> Iterator[WorkerScenario]:
    """Its loop tidies, at once and not beside."""
    stage = WorkerScenario(context, gateway, slot0, slurm, clock)
    stage.loop.cleanup = CleanupScheduler(context, start=lambda work: work())
    yield stage
    stage.probe.close()


def wait(stage: WorkerScenario, time: timedelta) -> None:
    stage.clock.advance(time.total_seconds())
    stage.step()


def test_nothing_is_left_on_a_cluster_that_was_never_used(stage: WorkerScenario) -> None:
    stage.step()
    assert stage.slurm.files == {} and stage.slurm.cleanup_requests == []


def test_a_job_keeps_its_key_as_long_as_slurm_lists_it(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    stage.slurm.requeue(job_id)
    wait(stage, INTERVAL)
    stage.slurm.start(job_id)
    wait(stage, INTERVAL)
    assert len(stage.slurm.cleanup_requests) == 2 and KEY in stage.slurm.files
    assert all(asked["live"] == ["bouchet-aa-1"] and asked["ended"] == [] for asked in stage.slurm.cleanup_requests)
    assert stage.slurm.cleanup_requests[-1]["live_ids"] == [job_id]


def test_the_key_goes_a_moment_after_the_end(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    stage.slurm.finish(job_id, "FAILED", "1:0")
    stage.step(2)
    assert stage.get().phase is Phase.ENDED and KEY in stage.slurm.files, "Slurm may still put it back into the queue"
    wait(stage, GRACE)
    assert KEY not in stage.slurm.files
    goes = len(stage.slurm.cleanup_requests)
    wait(stage, timedelta(hours=1))
    assert len(stage.slurm.cleanup_requests) == goes
    wait(stage, INTERVAL)
    assert len(stage.slurm.cleanup_requests) == goes + 1


def test_ends_in_a_row_lose_their_keys_one_after_the_other(stage: WorkerScenario) -> None:
    ids = {name: stage.launch(name, partition="gpu_h200") for name in ("aa", "bb")}
    keys = [f"{ROOT}/jobs/bouchet-{name}-1/key" for name in ids]
    for job_id in ids.values():
        stage.slurm.finish(job_id, "FAILED", "1:0")
        stage.step(2)
        stage.clock.advance(GRACE.total_seconds() / 2)
    stage.step()
    assert [key in stage.slurm.files for key in keys] == [False, True]
    wait(stage, GRACE / 2)
    assert [key in stage.slurm.files for key in keys] == [False, False]


def test_a_job_that_came_back_after_its_end_keeps_its_key(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    stage.slurm.finish(job_id, "NODE_FAIL")
    stage.step(2)
    assert stage.get().ending is Ending.FAILED
    stage.slurm.requeue(job_id)
    wait(stage, GRACE)
    assert stage.slurm.cleanup_requests[-1]["ended"] == stage.slurm.cleanup_requests[-1]["live"] == ["bouchet-aa-1"]
    assert KEY in stage.slurm.files


def test_nothing_is_removed_while_slurm_cannot_be_asked(stage: WorkerScenario) -> None:
    stage.slurm.finish(stage.ready(), "FAILED", "1:0")
    stage.step(2)
    stage.slurm.fault = lambda method, what: "command_timeout" if what == "squeue" else None
    goes = len(stage.slurm.cleanup_requests)
    wait(stage, GRACE)
    assert len(stage.slurm.cleanup_requests) == goes and KEY in stage.slurm.files
    stage.slurm.fault = lambda method, what: None
    wait(stage, RETRY)
    assert KEY not in stage.slurm.files


def test_jobs_that_are_no_serving_jobs_are_tidied_too(
    make_context: MakeWorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context = make_context(hub_token="hf_secret")
    fetched = Download(id="abcdefghijkl", model="a/b", created_at=clock(), updated_at=clock())
    context.store.downloads.create(fetched)
    submit_download(context, fetched.id)
    name = slurm.jobs[101].name
    clean_up(context)
    assert slurm.cleanup_requests[-1]["live"] == [name] and slurm.cleanup_requests[-1]["ended"] == []
    slurm.finish(101, "CANCELLED by 2001")
    context.store.downloads.update(fetched.id, lambda old: old.ended(clock(), BatchJobState.FAILED, "cut short"))
    clock.advance(GRACE.total_seconds())
    removed = clean_up(context)
    assert removed is not None and removed.secrets == (name,) and f"{ROOT}/jobs/{name}/token" not in slurm.files


def test_an_ended_job_says_how_long_its_files_are_kept(stage: WorkerScenario) -> None:
    stage.slurm.finish(stage.ready(), "COMPLETED")
    stage.step()
    ended = stage.get()
    assert ended.job is not None and ended.job.kept_until == ended.updated_at + timedelta(days=30)
    stage.step(2)
    assert stage.get() == ended


def test_a_site_may_keep_all_for_ever(
    make_context: MakeWorkerContext, context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    ever = make_context(site=context.site.model_copy(update={"keep_jobs_days": None}))
    assert kept_until(ever, clock()) is None
    slurm.files[f"{ROOT}/logs/README"] = b""
    clean_up(ever)
    assert slurm.cleanup_requests[-1]["keep_days"] is None


def test_an_answer_that_cannot_be_read_is_an_error(
    context: WorkerContext, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.files[f"{ROOT}/logs/README"] = b""
    monkeypatch.setattr(slurm, "python3", lambda words: (0, "Traceback", ""))
    with pytest.raises(GatewayError, match=r"cannot read what clean_up\.py printed: 'Traceback'"):
        clean_up(context)


def test_a_bug_in_it_ends_no_loop(stage: WorkerScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: WorkerContext) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tidying, "clean_up", broken)
    stage.ready()
    assert stage.get().phase is Phase.READY


def test_a_go_under_way_is_not_begun_again(context: WorkerContext, clock: Clock) -> None:
    begun: list[object] = []
    keeper = CleanupScheduler(context, start=begun.append)
    for _ in range(3):
        keeper.run_if_due([])
        clock.advance(INTERVAL.total_seconds())
    assert len(begun) == 1


def test_an_end_while_a_go_fails_is_not_forgotten(stage: WorkerScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = stage.ready()

    def fails(context: WorkerContext) -> None:
        raise RemoteTimeoutError("the tunnel gateway did not answer in time")

    with monkeypatch.context() as patched:
        patched.setattr(tidying, "clean_up", fails)
        stage.slurm.finish(job_id, "COMPLETED")
        stage.step(2)
        wait(stage, GRACE)
    assert KEY in stage.slurm.files
    wait(stage, RETRY)
    assert KEY not in stage.slurm.files
