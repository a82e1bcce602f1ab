"""Tasks that raise: retried after delays, then left for the user. A real RQ worker and a real Redis."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_core.tasks import RETRY_AFTER_S, TaskName
from bouchet_worker import tasks
from bouchet_worker.context import WorkerContext
from bouchet_worker.task_queue import FUNCTIONS, TaskJob, TaskQueue
from rq import Queue, Retry, SimpleWorker
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from tests.fakes.slurm_gateway import FakeSlurm, ProgramResult, job_ids

from .scenario import Clock, requested

TASK = "submit-aa"


@pytest.fixture
def queue(store: Store) -> Iterator[Queue]:
    connection = store.queue_connection()
    yield Queue("tasks", connection=connection, serializer=JSONSerializer)
    connection.close()


def run_tasks(queue: Queue) -> None:
    """Run tasks until none is enqueued."""
    worker = SimpleWorker([queue], connection=queue.connection, job_class=TaskJob, serializer=JSONSerializer)
    worker.work(burst=True)


def end_delay(queue: Queue) -> None:
    """Set the time of the next try to now."""
    job = queue.fetch_job(TASK)
    assert job is not None and job.get_status() is JobStatus.SCHEDULED
    queue.scheduled_job_registry.schedule(job, datetime.now(UTC) - timedelta(seconds=1))


def test_task_with_unexpected_error_is_retried_then_left_for_the_user(
    context: WorkerContext, queue: Queue, slurm: FakeSlurm, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.set_context(context)
    task_queue = TaskQueue(queue)
    context.store.create(requested("aa", clock()))
    has_bug, sbatch = True, slurm.sbatch

    def broken_sbatch(arguments: list[str]) -> ProgramResult:
        return (0, None, "") if has_bug else sbatch(arguments)  # type: ignore[return-value]

    monkeypatch.setattr(slurm, "sbatch", broken_sbatch)
    task_queue.send(TaskName.SUBMIT, "aa")
    for _ in RETRY_AFTER_S:
        run_tasks(queue)
        task_queue.tend()
        task_queue.send(TaskName.SUBMIT, "aa")
        assert queue.job_ids == [], "a delayed task is not enqueued early"
        end_delay(queue)
        task_queue.tend()
        assert queue.job_ids == [TASK]
        clock.advance(60)
    run_tasks(queue)
    assert queue.failed_job_registry.get_job_ids() == [TASK]
    record = context.store.get("aa")
    assert record.is_live and "unexpected error" in record.reason and "bouchet tasks" in record.reason
    task_queue.send(TaskName.SUBMIT, "aa")
    assert queue.job_ids == [], "a failed task waits for the user"
    has_bug = False
    clock.advance(60)
    queue.failed_job_registry.requeue(TASK)
    run_tasks(queue)
    assert context.store.get("aa").phase is Phase.QUEUED
    assert len(job_ids(slurm)) == 1
    assert queue.failed_job_registry.get_job_ids() == []


def test_task_sent_repeatedly_runs_once(context: WorkerContext, queue: Queue, slurm: FakeSlurm, clock: Clock) -> None:
    tasks.set_context(context)
    context.store.create(requested("aa", clock()))
    for _ in range(3):
        TaskQueue(queue).send(TaskName.SUBMIT, "aa")
    run_tasks(queue)
    assert len(job_ids(slurm)) == 1


def test_task_of_unknown_deployment_does_not_fail(context: WorkerContext, queue: Queue) -> None:
    tasks.set_context(context)
    TaskQueue(queue).send(TaskName.SUBMIT, "gone")
    run_tasks(queue)
    assert queue.failed_job_registry.get_job_ids() == []


def test_current_context_before_set_context_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_context", None)
    with pytest.raises(RuntimeError, match="set_context"):
        tasks.current_context()


def test_functions_are_the_tasks() -> None:
    assert sorted(FUNCTIONS) == sorted(f"bouchet_worker.tasks.{task}" for task in TaskName)


@pytest.mark.parametrize(
    "function",
    [
        "subprocess.getoutput",
        "bouchet_worker.tasks.subprocess",
        "bouchet_worker.tasks._query",
        "os.system",
        "a.b.c",
        "",
    ],
)
def test_entry_that_is_no_task_fails_once_without_running(
    queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    job = queue.enqueue_call(function or "x", args=(f"touch {tmp_path}/ran",), retry=Retry(3, 1), failure_ttl=1000)
    if not function:
        queue.connection.hset(job.key, "data", b"not JSON")
    run_tasks(queue)
    assert list(tmp_path.iterdir()) == [] and queue.scheduled_job_registry.count == 0
    assert queue.failed_job_registry.get_job_ids() == [job.id]
    assert "is not a task" in caplog.text or not function


def test_callbacks_and_webhooks_of_an_entry_are_ignored(
    context: WorkerContext, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path)!r}, 'ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks.set_context(context)
    for function in ("bouchet_worker.tasks.submit", "subprocess.getoutput"):
        job = queue.enqueue_call(function, args=("gone",), result_ttl=100, failure_ttl=100)
        for event in ("success", "failure", "stopped"):
            queue.connection.hset(job.key, f"{event}_callback_name", "planted.run")
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            hooks = [{"url": url, "job_status": status, "timeout": 1} for status in ("finished", "failed")]
            queue.connection.hset(job.key, "webhooks", json.dumps(hooks))
            run_tasks(queue)
            server.settimeout(0.5)
            with pytest.raises(TimeoutError):
                server.accept()
    assert not (tmp_path / "ran").exists()
    assert queue.failed_job_registry.get_job_ids() == [job.id]
