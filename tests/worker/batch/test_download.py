"""Downloads in the worker: one job a model, moved by the one look, ended in words."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from bouchet_core.batch_jobs import BatchJobState, Download, fetches, job_name_of
from bouchet_core.deployments import Phase
from bouchet_worker.batch.download import cancel_download, submit_download
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.model_check import check_model_present, list_models
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import SECRET, Clock, MakeWorkerContext, requested

MODEL = "Qwen/Qwen3-32B"
ID = "abcdefghijkl"


@pytest.fixture
def sent() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def loop(context: WorkerContext, sent: list[tuple[str, str]]) -> ReconcileLoop:
    probe = SlotProbe("127.0.0.1", 1, SECRET)
    return ReconcileLoop(
        context, Observer(context.gateway, context.paths, probe), lambda task, record: sent.append((task, record))
    )


def asked(context: WorkerContext, model: str = MODEL, identity: str = ID) -> Download:
    """A record as the api makes it."""
    now = context.now()
    return context.store.downloads.create(Download(id=identity, model=model, created_at=now, updated_at=now))


def says(slurm: FakeSlurm, context: WorkerContext, **fields: object) -> None:
    """The job of the only download writes its progress file."""
    record = context.store.downloads.get(ID)
    said = {"job_name": record.job_name, "state": "running", "step": "fetching", "bytes": 250, "total_bytes": 1000}
    slurm.files[f"{context.paths.job(record.job_name)}/progress.json"] = json.dumps({**said, **fields}).encode()


def test_a_job_names_its_model_and_no_other() -> None:
    assert fetches(job_name_of("a/b", ID), "a/b")
    assert not fetches(job_name_of("a/b-abcdefghijkl", ID), "a/b")
    assert not fetches(job_name_of("a/bx", ID), "a/b") and not fetches("bouchet-abc-1", "a/b")


def test_it_is_submitted_to_the_cpu_partition_without_gpus(context: WorkerContext, slurm: FakeSlurm) -> None:
    record = asked(context)
    assert submit_download(context, record.id) == "job 101"
    job = slurm.jobs[101]
    assert job.partition == "day" and not any(word.startswith("--gpus") for word in job.argv)
    assert job.name == job_name_of(MODEL, ID)
    spec = json.loads(slurm.files[f"{context.paths.job(job.name)}/spec.json"])
    assert spec["model"] == MODEL and spec["endpoint"] == context.site.hub_endpoint and spec["revision"] == "main"
    assert f"{context.paths.job(job.name)}/token" not in slurm.files
    assert context.store.downloads.get(ID).slurm_id == 101
    assert submit_download(context, record.id) == "nothing to do" and len(slurm.jobs) == 1


def test_the_token_travels_in_a_file_alone(make_context: MakeWorkerContext, slurm: FakeSlurm) -> None:
    context = make_context(hub_token="hf_secret")
    submit_download(context, asked(context).id)
    name = slurm.jobs[101].name
    assert slurm.files.pop(f"{context.paths.job(name)}/token") == b"hf_secret\n"
    assert "hf_secret" not in str(slurm.calls) + str(slurm.files) + context.store.downloads.get(ID).model_dump_json()


def test_a_job_that_fetches_the_model_already_is_adopted(context: WorkerContext, slurm: FakeSlurm) -> None:
    submit_download(context, asked(context).id)
    context.store.queue_connection().flushall()
    again = asked(context, identity="mnopqrstuvwx")
    assert submit_download(context, again.id) == "job 101"
    assert len(slurm.jobs) == 1 and context.store.downloads.get(again.id).job_name == job_name_of(MODEL, ID)


def test_a_lost_answer_of_sbatch_makes_no_second_job(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    record = asked(context)
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None
    assert submit_download(context, record.id) == "retry later"
    slurm.lose_answer = lambda method, what: None
    clock.advance(100)
    assert submit_download(context, record.id) == "job 101" and len(slurm.jobs) == 1


def test_without_a_cpu_partition_it_says_what_to_write_where(make_context: MakeWorkerContext, slurm: FakeSlurm) -> None:
    context = make_context()
    context = make_context(site=context.site.model_copy(update={"cpu_partition": None}))
    assert submit_download(context, asked(context).id) == "failed"
    assert "cpu_partition" in context.store.downloads.get(ID).reason and not slurm.jobs


def test_the_look_moves_it_from_the_queue_to_its_end(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop, sent: list[tuple[str, str]]
) -> None:
    submit_download(context, asked(context).id)
    loop.step()
    waiting = context.store.downloads.get(ID)
    assert waiting.state is BatchJobState.QUEUED and "ahead of it" in waiting.reason
    slurm.start(101)
    says(slurm, context, rate=25, files=1, total_files=4)
    loop.step()
    running = context.store.downloads.get(ID)
    assert running.state is BatchJobState.RUNNING and running.reason == "fetching"
    assert (running.bytes, running.total_bytes, running.rate, running.eta_s) == (250, 1000, 25, 30)
    says(slurm, context, state="done", bytes=1000, sentence="4 files, every hash as the hub has it", commit="c" * 40)
    slurm.finish(101, "COMPLETED")
    loop.step()
    done = context.store.downloads.get(ID)
    assert (done.state, done.bytes, done.commit) == (BatchJobState.DONE, 1000, "c" * 40) and "every hash" in done.reason
    assert ("list_models", ID) in sent
    events = [event.batch_job.state for event in context.store.downloads.events("0-0", ID)]
    assert [s for s, before in zip(events, [None, *events], strict=False) if s is not before] == [
        BatchJobState.QUEUED,
        BatchJobState.RUNNING,
        BatchJobState.DONE,
    ]


def test_one_squeue_serves_downloads_and_deployments(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    for number, model in enumerate(("a/one", "a/two", "a/three")):
        identity = f"abcdefghijk{'lmn'[number]}"
        submit_download(context, asked(context, model, identity).id)
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    loop.step()
    slurm.calls.clear()
    loop.step()
    assert slurm.programs() == ["squeue"]


def test_nothing_is_asked_when_no_download_lives(context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    loop.step()
    slurm.calls.clear()
    loop.step()
    assert slurm.calls == []


@pytest.mark.parametrize("word", ["TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "FAILED"])
def test_a_job_that_ended_without_a_word_says_how_to_go_on(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop, word: str
) -> None:
    submit_download(context, asked(context).id)
    slurm.start(101)
    says(slurm, context)
    loop.step()
    slurm.finish(101, word)
    loop.step()
    ended = context.store.downloads.get(ID)
    assert ended.state is BatchJobState.FAILED and f"bouchet download {MODEL}" in ended.reason
    assert ended.bytes == 250


def test_what_the_job_said_of_its_failure_is_the_reason(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    submit_download(context, asked(context).id)
    slurm.start(101)
    says(slurm, context, state="failed", kind="gated", sentence="it is gated: accept its terms")
    slurm.finish(101, "FAILED", "1:0")
    loop.step()
    ended = context.store.downloads.get(ID)
    assert (ended.state, ended.kind, ended.reason) == (BatchJobState.FAILED, "gated", "it is gated: accept its terms")


def test_a_model_the_hub_does_not_know_is_compared_with_the_catalog(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    submit_download(context, asked(context, "Qwen/Qwen3-23B").id)
    says(slurm, context, state="failed", kind="unknown_model", sentence="the hub knows no model Qwen/Qwen3-23B")
    slurm.finish(101, "FAILED", "1:0")
    loop.step()
    assert context.store.downloads.get(ID).reason.endswith(f"; did you mean {MODEL}?")


def test_could_not_ask_ends_nothing(context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    submit_download(context, asked(context).id)
    slurm.fault = lambda method, what: "tunnel_down"
    loop.step()
    assert context.store.downloads.get(ID).is_live


def test_cancel_goes_by_id_and_ends_when_the_job_has(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    submit_download(context, asked(context).id)
    slurm.start(101)
    says(slurm, context)
    assert cancel_download(context, ID) == "cancelled job 101"
    assert ["scancel", "101"] in slurm.calls
    loop.step()
    ended = context.store.downloads.get(ID)
    assert ended.state is BatchJobState.CANCELLED and "kept" in ended.reason
    assert cancel_download(context, ID) == "has ended"


def test_a_cancel_that_did_not_reach_slurm_is_sent_again(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop, clock: Clock, sent: list[tuple[str, str]]
) -> None:
    submit_download(context, asked(context).id)
    slurm.start(101)
    slurm.fault = lambda method, what: "tunnel_down"
    assert cancel_download(context, ID) == "retry later"
    slurm.fault = lambda method, what: None
    clock.advance(5)
    loop.step()
    assert sent == [("cancel_download", ID)] and context.store.downloads.get(ID).reason == "being cancelled"


def test_cancelled_before_it_was_submitted(context: WorkerContext, slurm: FakeSlurm) -> None:
    asked(context)
    cancel_download(context, ID)
    assert context.store.downloads.get(ID).state is BatchJobState.CANCELLED and not slurm.jobs


def test_a_lost_task_is_sent_again(
    context: WorkerContext, loop: ReconcileLoop, clock: Clock, sent: list[tuple[str, str]]
) -> None:
    asked(context)
    loop.step()
    assert sent == []
    clock.advance(5)
    loop.step()
    loop.step()
    assert sent == [("download", ID)]


def test_on_the_login_node_it_needs_no_slurm(make_context: MakeWorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context = make_context()
    context = make_context(site=context.site.model_copy(update={"download_on": "login", "cpu_partition": None}))
    sent: list[tuple[str, str]] = []
    probe = SlotProbe("127.0.0.1", 1, SECRET)
    loop = ReconcileLoop(context, Observer(context.gateway, context.paths, probe), lambda *words: sent.append(words))  # type: ignore[arg-type]
    loop.step()
    assert submit_download(context, asked(context).id) == "started" and not slurm.jobs
    slurm.calls.clear()
    says(slurm, context, at=context.now().timestamp())
    loop.step()
    assert context.store.downloads.get(ID).state is BatchJobState.RUNNING and slurm.calls == []
    clock.advance(200)
    loop.step()
    assert sent == [("download", ID)], "it has been silent for long: started again, which finds it if it lives"
    cancel_download(context, ID)
    assert f"{context.paths.job(job_name_of(MODEL, ID))}/stop" in slurm.files
    says(slurm, context, state="stopped")
    loop.step()
    assert context.store.downloads.get(ID).state is BatchJobState.CANCELLED


READY = {"state": "ready", "bytes": 5, "total_bytes": 5, "revision": "c" * 40, "last_used": 1763800000}


def test_a_look_is_kept_with_its_time(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = {MODEL: READY}
    assert list_models(context) == "1 models"
    look = context.store.downloads.disk()
    assert look is not None and look.listed_at == context.now()
    assert look.of(MODEL).percent == 100 and look.of("a/b").state == "missing"


def test_a_look_that_failed_forgets_nothing(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = {MODEL: READY}
    list_models(context)
    slurm.on_disk = None
    assert list_models(context) == "could not list the models"
    assert context.store.downloads.disk() is not None


@pytest.mark.parametrize(
    ("on_disk", "words"),
    [({}, "is not on the cluster"), ({"demo/scripted": {**READY, "state": "partial", "total_bytes": 12}}, "41 %")],
)
def test_a_launch_of_an_absent_model_ends_before_a_gpu_is_asked_for(
    context: WorkerContext, slurm: FakeSlurm, on_disk: dict[str, object], words: str
) -> None:
    slurm.on_disk = on_disk
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    ended = context.store.get("d1")
    assert ended.phase is Phase.ENDED and words in ended.reason and "bouchet download demo/scripted" in ended.reason
    assert "sbatch" not in slurm.programs()


def test_an_old_look_is_not_believed_and_an_unknown_disk_blocks_nothing(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    slurm.on_disk = {}
    list_models(context)
    slurm.on_disk = {MODEL: READY}
    check_model_present(context, MODEL)
    slurm.on_disk = None
    clock.advance(timedelta(hours=1).total_seconds())
    check_model_present(context, "a/b")
