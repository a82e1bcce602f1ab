"""Tasks that raise: retried after delays, then left for the user. A real RQ worker and a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_core.tasks import RETRY_AFTER_S, TaskName
from bouchet_worker import tasks
from bouchet_worker.context import WorkerContext
from bouchet_worker.task_queue import TaskQueue
from rq import Queue, SimpleWorker
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
    SimpleWorker([queue], connection=queue.connection, serializer=JSONSerializer).work(burst=True)


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
