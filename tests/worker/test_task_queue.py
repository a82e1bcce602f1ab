"""Tasks that raise: tried again after pauses, then left for a person. A real RQ worker over a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_core.tasks import RETRY_AFTER_S
from bouchet_worker.context import WorkerContext
from bouchet_worker.task_queue import TaskQueue
from bouchet_worker.tasks import set_context
from rq import Queue, SimpleWorker
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from tests.fakes.slurm_gateway import FakeSlurm, job_ids
from tests.worker.scenario import Clock, requested

TASK = "submit-aa"


@pytest.fixture
def queue(store: Store) -> Iterator[Queue]:
    connection = store.queue_connection()
    yield Queue("tasks", connection=connection, serializer=JSONSerializer)
    connection.close()


def work(queue: Queue) -> None:
    """Until nothing waits."""
    SimpleWorker([queue], connection=queue.connection, serializer=JSONSerializer).work(burst=True)


def pass_the_pause(queue: Queue) -> None:
    """As if the time of the next try had come."""
    job = queue.fetch_job(TASK)
    assert job is not None and job.get_status() is JobStatus.SCHEDULED
    queue.scheduled_job_registry.schedule(job, datetime.now(UTC) - timedelta(seconds=1))


def test_a_launch_that_meets_a_bug_is_tried_again_and_then_waits_for_a_person(
    context: WorkerContext, queue: Queue, slurm: FakeSlurm, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_context(context)
    tasks = TaskQueue(queue)
    context.store.create(requested("aa", clock()))
    bug = {"on": True}
    sbatch = slurm.sbatch
    monkeypatch.setattr(slurm, "sbatch", lambda words: (0, None, "") if bug["on"] else sbatch(words))
    tasks.send("submit", "aa")
    for _ in RETRY_AFTER_S:
        work(queue)
        tasks.tend()
        tasks.send("submit", "aa")
        assert queue.job_ids == [], "it waits for its time, and nobody hurries it"
        pass_the_pause(queue)
        tasks.tend()
        assert queue.job_ids == [TASK]
        clock.advance(60)
    work(queue)
    assert queue.failed_job_registry.get_job_ids() == [TASK]
    record = context.store.get("aa")
    assert record.is_live and "unexpected error" in record.reason and "bouchet tasks" in record.reason
    tasks.send("submit", "aa")
    assert queue.job_ids == [], "it waits for a person"
    bug["on"] = False
    clock.advance(60)
    queue.failed_job_registry.requeue(TASK)
    work(queue)
    assert context.store.get("aa").phase is Phase.QUEUED
    assert len(job_ids(slurm)) == 1
    assert queue.failed_job_registry.get_job_ids() == []


def test_an_task_sent_twice_is_done_once(context: WorkerContext, queue: Queue, slurm: FakeSlurm, clock: Clock) -> None:
    set_context(context)
    context.store.create(requested("aa", clock()))
    for _ in range(3):
        TaskQueue(queue).send("submit", "aa")
    work(queue)
    assert len(job_ids(slurm)) == 1


def test_an_task_of_a_deployment_that_is_gone_fails_nowhere(context: WorkerContext, queue: Queue) -> None:
    set_context(context)
    TaskQueue(queue).send("submit", "nobody")
    work(queue)
    assert queue.failed_job_registry.get_job_ids() == []
