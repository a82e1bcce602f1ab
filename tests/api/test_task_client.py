"""The queue's writing end over a real Redis, with results written as RQ's worker writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bouchet_api import task_client
from bouchet_api.task_client import TaskClient, TaskFailedError, UnknownTaskError, WorkerTimeoutError, failure_reason
from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import SOCKET_TIMEOUT_S, Store
from bouchet_core.tasks import FAILURE_TTL_S, MODULE, QUEUE, TaskName, task_id
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result

from tests.conftest import RedisServer
from tests.fakes.running_api import queued_tasks
from tests.waiting import wait_for

Finish = Callable[[Job], object]


@pytest.fixture
def tasks(store: Store) -> Iterator[TaskClient]:
    client = TaskClient(store)
    yield client
    client.close()


@pytest.fixture
def queue(store: Store) -> Iterator[Queue]:
    connection = store.queue_connection()
    yield Queue(QUEUE, connection=connection, serializer="json")
    connection.close()


def answer_next(queue: Queue, delay_s: float, finish: Finish) -> threading.Thread:
    """Take the next job as a worker would, and finish it `delay_s` seconds later in a thread."""

    def work() -> None:
        (job,) = wait_for(lambda: queue.jobs)
        time.sleep(delay_s)
        finish(job)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def succeed(value: Any) -> Finish:
    return lambda job: Result.create(job, Result.Type.SUCCESSFUL, 60, return_value=value)


def test_query_returns_the_answer_as_soon_as_it_is_written(tasks: TaskClient, queue: Queue) -> None:
    queue.connection.config_resetstat()
    worker = answer_next(queue, 0.3, succeed({"answer": [1, 2]}))
    assert tasks.query(TaskName.LIST_ORPHANS, 7, wait_s=30.0) == [1, 2]
    worker.join()
    # the read that waited returned it: nothing was asked again
    assert queue.connection.info("commandstats")["cmdstat_xread"]["calls"] == 1
    (job,) = queue.jobs
    assert (job.func_name, list(job.args)) == (MODULE + TaskName.LIST_ORPHANS, [7])


def test_query_waits_longer_than_one_blocking_read(
    tasks: TaskClient, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_client, "WAIT_SLICE_S", 1)
    worker = answer_next(queue, 1.2, succeed({"answer": None}))
    assert tasks.query(TaskName.DOCTOR, wait_s=30.0) is None
    worker.join()


def test_blocking_read_ends_before_the_socket_timeout() -> None:
    assert 0 < task_client.WAIT_SLICE_S < SOCKET_TIMEOUT_S


def test_query_without_worker_times_out_with_one_read(tasks: TaskClient, queue: Queue) -> None:
    queue.connection.config_resetstat()
    started = time.monotonic()
    with pytest.raises(WorkerTimeoutError) as caught:
        tasks.query(TaskName.DOCTOR, wait_s=0.5)
    assert caught.value.kind == "worker_silent"
    assert time.monotonic() - started >= 0.5
    calls = {name: stats["calls"] for name, stats in queue.connection.info("commandstats").items()}
    assert (calls["cmdstat_xread"], calls.get("cmdstat_xrevrange", 0)) == (1, 0)


def test_query_raises_the_kind_of_the_workers_error(tasks: TaskClient, queue: Queue) -> None:
    worker = answer_next(queue, 0, succeed({"kind": "tunnel_down", "detail": "no SSH connection"}))
    with pytest.raises(TaskFailedError, match="no SSH connection") as caught:
        tasks.query(TaskName.LIST_IMAGES, wait_s=30.0)
    worker.join()
    assert caught.value.kind == "tunnel_down"


def test_query_whose_worker_died_fails_without_waiting_longer(tasks: TaskClient, queue: Queue) -> None:
    worker = answer_next(queue, 0, lambda job: Result.create_failure(job, 60, "AbandonedJobError"))
    with pytest.raises(TaskFailedError, match="make logs") as caught:
        tasks.query(TaskName.LIST_IMAGES, wait_s=30.0)
    worker.join()
    assert caught.value.kind == "error"


def test_query_fails_when_redis_stops(tasks: TaskClient, queue: Queue, redis_server: RedisServer) -> None:
    worker = answer_next(queue, 0.1, lambda _: redis_server.stop())
    with pytest.raises(StoreUnavailableError):
        tasks.query(TaskName.DOCTOR, wait_s=30.0)
    worker.join()


def test_enqueue_twice_has_one_job_with_retries(tasks: TaskClient, queue: Queue, store: Store) -> None:
    for _ in range(2):
        tasks.enqueue(TaskName.SUBMIT, "aa")
    assert set(queued_tasks(store)) == {("submit", "aa")}
    assert queue.jobs[0].id == task_id(TaskName.SUBMIT, "aa")
    assert queue.jobs[0].retries_left == 3


def fail(queue: Queue, deployment: str, trace: str) -> None:
    """Leave behind what RQ does when the last try of a submit task has failed."""
    job = Job.create(
        MODULE + TaskName.SUBMIT,
        (deployment,),
        connection=queue.connection,
        id=task_id(TaskName.SUBMIT, deployment),
        origin=QUEUE,
        serializer="json",
        failure_ttl=FAILURE_TTL_S,
    )
    job.ended_at = datetime.now(UTC)
    job.save()
    job.set_status(JobStatus.FAILED)
    with queue.connection.pipeline() as pipeline:
        queue.failed_job_registry.add(job, ttl=FAILURE_TTL_S, exc_string=trace, pipeline=pipeline)
        Result.create_failure(job, FAILURE_TTL_S, trace, pipeline=pipeline)
        pipeline.execute()


def test_failed_task_is_listed_with_its_error_and_can_be_retried(tasks: TaskClient, queue: Queue, store: Store) -> None:
    fail(queue, "aa", "Traceback (most recent call last):\n  File ...\nKeyError: 'x'\n")
    (failed,) = tasks.failed()
    assert (failed.id, failed.task, failed.deployment) == ("submit-aa", "submit", "aa")
    assert failed.reason == "KeyError: 'x'" and failed.failed_at is not None
    assert tasks.retry("submit-aa").id == "submit-aa"
    assert tasks.failed() == []
    assert queued_tasks(store) == [("submit", "aa")]


def test_dropped_task_is_gone(tasks: TaskClient, queue: Queue, store: Store) -> None:
    fail(queue, "aa", "")
    assert tasks.drop("submit-aa").id == "submit-aa"
    assert tasks.failed() == [] and queued_tasks(store) == []


@pytest.mark.parametrize("method", ["retry", "drop"])
def test_unknown_failed_task_is_an_error(tasks: TaskClient, method: str) -> None:
    with pytest.raises(UnknownTaskError):
        getattr(tasks, method)("submit-zz")


def test_failure_reason_is_one_bounded_line() -> None:
    assert failure_reason("Traceback\n  File\nValueError: x\n\n") == "ValueError: x"
    assert "died" in failure_reason("rq.exceptions.AbandonedJobError: Moved to registry")
    assert "make logs" in failure_reason(" \n")
    assert len(failure_reason("x" * 1000)) == task_client.REASON_LENGTH
