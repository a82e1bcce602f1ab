"""Downloads: one job per model, followed by the reconcile loop until its end."""

from __future__ import annotations

import json

import pytest
from bouchet_core.batch_jobs import BatchJobState, Download, is_batch_job_name, job_name_of
from bouchet_core.tasks import TaskName
from bouchet_worker.batch.download import cancel_download, submit_download
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer
from bouchet_worker.slurm.submission import FAILED, HAS_ENDED, NOTHING_TO_DO, RETRY_LATER

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.reconcile.unrecorded import flush
from tests.worker.scenario import SECRET, Clock, MakeWorkerContext, requested

MODEL = "Qwen/Qwen3-32B"
ID = "abcdefghijkl"
COMMIT = "c" * 40

Sent = list[tuple[TaskName, str]]


@pytest.fixture
def sent() -> Sent:
    """Return the tasks that the loop enqueued."""
    return []


def make_loop(context: WorkerContext, sent: Sent) -> ReconcileLoop:
    observer = Observer(context, SlotProbe("127.0.0.1", 1, SECRET))
    return ReconcileLoop(context, observer, lambda task, record: sent.append((task, record)))


@pytest.fixture
def loop(context: WorkerContext, sent: Sent) -> ReconcileLoop:
    return make_loop(context, sent)


def create(context: WorkerContext, model: str = MODEL, identity: str = ID, revision: str = "main") -> Download:
    """Create a record as the API does."""
    now = context.now()
    new = Download(id=identity, model=model, revision=revision, created_at=now, updated_at=now)
    return context.store.downloads.create(new)


def get(context: WorkerContext) -> Download:
    return context.store.downloads.get(ID)


def write_progress(slurm: FakeSlurm, context: WorkerContext, **fields: object) -> None:
    """Write the progress file of the job of download ID."""
    name = get(context).job_name
    counts = {"bytes": 250, "total_bytes": 1000}
    progress = {"job_name": name, "state": "running", "step": "downloading", **counts, **fields}
    slurm.files[f"{context.paths.job(name)}/progress.json"] = json.dumps(progress).encode()


# submission


def test_job_name_matches_its_model_only() -> None:
    stem = job_name_of("a/b", "")
    assert is_batch_job_name(job_name_of("a/b", ID), stem)
    assert not is_batch_job_name(job_name_of("a/b-abcdefghijkl", ID), stem)
    assert not is_batch_job_name(job_name_of("a/bx", ID), stem) and not is_batch_job_name("bouchet-abc-1", stem)


def test_submit_download_requests_the_cpu_partition(context: WorkerContext, slurm: FakeSlurm) -> None:
    create(context)
    assert submit_download(context, ID) == "job 101"
    job = slurm.jobs[101]
    assert job.partition == "day" and not any(option.startswith("--gpus") for option in job.argv)
    assert job.name == job_name_of(MODEL, ID)
    folder = context.paths.job(job.name)
    spec = json.loads(slurm.files[f"{folder}/spec.json"])
    assert spec["model"] == MODEL and spec["endpoint"] == context.site.hub_endpoint and spec["revision"] == "main"
    assert f"{folder}/token" not in slurm.files
    assert get(context).slurm_id == 101


def test_second_submit_download_does_nothing(context: WorkerContext, slurm: FakeSlurm) -> None:
    create(context)
    submit_download(context, ID)
    assert submit_download(context, ID) == NOTHING_TO_DO and len(slurm.jobs) == 1


def test_submit_of_unknown_download_does_nothing(context: WorkerContext, slurm: FakeSlurm) -> None:
    assert submit_download(context, ID) == cancel_download(context, ID) == "no such download"
    assert slurm.calls == []


def test_hub_token_is_only_in_its_file(make_context: MakeWorkerContext, slurm: FakeSlurm) -> None:
    context = make_context(hub_token="hf_secret")
    create(context)
    submit_download(context, ID)
    assert slurm.files.pop(f"{context.paths.job(slurm.jobs[101].name)}/token") == b"hf_secret\n"
    assert "hf_secret" not in str(slurm.calls) + str(slurm.files) + get(context).model_dump_json()


def test_submit_download_adopts_a_job_for_the_same_model(
    context: WorkerContext, slurm: FakeSlurm, redis_server: RedisServer
) -> None:
    create(context)
    submit_download(context, ID)
    flush(redis_server)
    again = create(context, identity="mnopqrstuvwx")
    assert submit_download(context, again.id) == "job 101"
    assert len(slurm.jobs) == 1 and context.store.downloads.get(again.id).job_name == job_name_of(MODEL, ID)


def test_submit_download_refuses_a_job_for_another_revision(
    context: WorkerContext, slurm: FakeSlurm, redis_server: RedisServer
) -> None:
    create(context)
    submit_download(context, ID)
    flush(redis_server)
    wanted = create(context, identity="mnopqrstuvwx", revision="v2.0")
    assert submit_download(context, wanted.id) == FAILED
    record = context.store.downloads.get(wanted.id)
    assert record.state is BatchJobState.FAILED and "scancel 101" in record.reason and "revision" in record.reason
    assert len(slurm.jobs) == 1 and slurm.programs().count("scancel") == 0


def test_lost_answer_of_sbatch_creates_no_second_job(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    create(context)
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None
    assert submit_download(context, ID) == RETRY_LATER
    slurm.lose_answer = lambda method, what: None
    clock.advance(100)
    assert submit_download(context, ID) == "job 101" and len(slurm.jobs) == 1


def test_download_without_cpu_partition_names_the_setting(make_context: MakeWorkerContext, slurm: FakeSlurm) -> None:
    site = make_context().site.model_copy(update={"cpu_partition": None})
    context = make_context(site=site)
    create(context)
    assert submit_download(context, ID) == FAILED
    assert "cpu_partition" in get(context).reason and not slurm.jobs


# the reconcile loop


def test_download_advances_from_queue_to_end(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop, sent: Sent
) -> None:
    create(context)
    submit_download(context, ID)
    loop.step()
    waiting = get(context)
    assert waiting.state is BatchJobState.QUEUED and "ahead of it" in waiting.reason
    slurm.start(101)
    write_progress(slurm, context, rate=25, files=1, total_files=4)
    loop.step()
    running = get(context)
    assert running.state is BatchJobState.RUNNING and running.reason == "downloading"
    assert (running.bytes, running.total_bytes, running.rate, running.eta_s) == (250, 1000, 25, 30)
    write_progress(slurm, context, state="done", bytes=1000, sentence="4 files verified", commit=COMMIT)
    slurm.finish(101, "COMPLETED")
    loop.step()
    done = get(context)
    assert (done.state, done.bytes, done.commit) == (BatchJobState.DONE, 1000, COMMIT)
    assert done.reason == "4 files verified"
    assert (TaskName.LIST_MODELS, ID) in sent
    states = [event.batch_job.state for event in context.store.downloads.events("0-0", ID)]
    assert list(dict.fromkeys(states)) == [BatchJobState.QUEUED, BatchJobState.RUNNING, BatchJobState.DONE]


def test_one_squeue_serves_downloads_and_deployments(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    for model, identity in (("a/one", "abcdefghijkl"), ("a/two", "abcdefghijkm"), ("a/three", "abcdefghijkn")):
        create(context, model, identity)
        submit_download(context, identity)
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    loop.step()
    slurm.calls.clear()
    loop.step()
    assert slurm.programs() == ["squeue"]


def test_loop_without_live_records_queries_nothing(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    loop.step()
    slurm.calls.clear()
    loop.step()
    assert slurm.calls == []


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "FAILED"])
def test_interrupted_download_says_how_to_resume(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop, state: str
) -> None:
    create(context)
    submit_download(context, ID)
    slurm.start(101)
    write_progress(slurm, context)
    loop.step()
    slurm.finish(101, state)
    loop.step()
    ended = get(context)
    assert ended.state is BatchJobState.FAILED and ended.kind == "job_ended"
    assert f"bouchet download {MODEL}" in ended.reason and ended.bytes == 250


def test_failed_download_has_the_reason_of_its_job(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    create(context)
    submit_download(context, ID)
    slurm.start(101)
    write_progress(slurm, context, state="failed", kind="gated", sentence="the model is gated")
    slurm.finish(101, "FAILED", "1:0")
    loop.step()
    ended = get(context)
    assert (ended.state, ended.kind, ended.reason) == (BatchJobState.FAILED, "gated", "the model is gated")


def test_unknown_model_is_compared_with_the_catalog(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    create(context, "Qwen/Qwen3-23B")
    submit_download(context, ID)
    write_progress(slurm, context, state="failed", kind="unknown_model", sentence="the hub has no such model")
    slurm.finish(101, "FAILED", "1:0")
    loop.step()
    assert get(context).reason == f"the hub has no such model; did you mean {MODEL}?"


def test_failed_query_ends_nothing(context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    create(context)
    submit_download(context, ID)
    slurm.fault = lambda method, what: "tunnel_down"
    loop.step()
    assert get(context).is_live


def test_lost_task_is_sent_again(context: WorkerContext, loop: ReconcileLoop, clock: Clock, sent: Sent) -> None:
    create(context)
    loop.step()
    assert sent == []
    clock.advance(5)
    loop.step()
    loop.step()
    assert sent == [(TaskName.DOWNLOAD, ID)]


# cancellation


def test_cancel_download_uses_the_job_id_and_keeps_files(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    create(context)
    submit_download(context, ID)
    slurm.start(101)
    write_progress(slurm, context)
    assert cancel_download(context, ID) == "cancelled job 101"
    assert ["scancel", "101"] in slurm.calls
    loop.step()
    ended = get(context)
    assert ended.state is BatchJobState.CANCELLED and "kept" in ended.reason
    assert cancel_download(context, ID) == HAS_ENDED


def test_cancel_that_did_not_reach_slurm_is_sent_again(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop, clock: Clock, sent: Sent
) -> None:
    create(context)
    submit_download(context, ID)
    slurm.start(101)
    slurm.fault = lambda method, what: "tunnel_down"
    assert cancel_download(context, ID) == RETRY_LATER
    slurm.fault = lambda method, what: None
    clock.advance(5)
    loop.step()
    assert sent == [(TaskName.CANCEL_DOWNLOAD, ID)] and get(context).reason == "being cancelled"


def test_cancel_download_before_submission_ends_it(context: WorkerContext, slurm: FakeSlurm) -> None:
    create(context)
    cancel_download(context, ID)
    assert get(context).state is BatchJobState.CANCELLED and not slurm.jobs


def test_download_on_login_node_needs_no_slurm(
    make_context: MakeWorkerContext, slurm: FakeSlurm, clock: Clock, sent: Sent
) -> None:
    site = make_context().site.model_copy(update={"download_on": "login", "cpu_partition": None})
    context = make_context(site=site)
    loop = make_loop(context, sent)
    loop.step()
    create(context)
    assert submit_download(context, ID) == "started" and not slurm.jobs
    slurm.calls.clear()
    write_progress(slurm, context, at=context.now().timestamp())
    loop.step()
    assert get(context).state is BatchJobState.RUNNING and slurm.calls == []
    clock.advance(200)
    loop.step()
    assert sent == [(TaskName.DOWNLOAD, ID)], "without progress for long it is started again"
    cancel_download(context, ID)
    assert f"{context.paths.job(job_name_of(MODEL, ID))}/stop" in slurm.files
    write_progress(slurm, context, state="stopped")
    loop.step()
    assert get(context).state is BatchJobState.CANCELLED
