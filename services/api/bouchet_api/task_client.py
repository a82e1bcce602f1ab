"""Client of the task queue: the API enqueues the worker's tasks by name, so that neither package imports the other."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bouchet_core.errors import BouchetError
from bouchet_core.store import SOCKET_TIMEOUT_S, Store
from bouchet_core.tasks import MODULE, QUEUE, RESULT_TTL_S, RETRY_AFTER_S, TIMEOUT_S, TaskName, task_call
from pydantic import BaseModel, Field
from rq import Queue, Retry
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result

REASON_LENGTH = 300
# one blocking read of a result ends before the socket's timeout does
WAIT_SLICE_S = int(SOCKET_TIMEOUT_S) - 1
RETRIES = Retry(len(RETRY_AFTER_S), RETRY_AFTER_S)


class WorkerTimeoutError(BouchetError):
    """The worker did not answer a query in time."""

    kind = "worker_silent"

    def __init__(self, task: str, waited_s: float) -> None:
        super().__init__(f"the worker did not answer {str(task)!r} within {waited_s:.0f} s; see `make logs`")


class TaskFailedError(BouchetError):
    """A query failed in the worker; `kind` is that of the worker's error."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(detail)


class UnknownTaskError(BouchetError):
    """No failed task has this id."""

    kind = "unknown_task"

    def __init__(self, identity: str) -> None:
        super().__init__(f"no failed task {identity!r}; `bouchet tasks` lists them")


class FailedTask(BaseModel):
    """A background task that failed at every try. The worker tries its deployment again later."""

    id: str
    task: str = Field(description="name of the task, such as submit or cancel")
    deployment: str = Field(description="id of the deployment, download or image job; empty for what is no task")
    failed_at: datetime | None
    reason: str = Field(description="the error in one line; the worker's log has the traceback")


def failure_reason(trace: str) -> str:
    """Return the last line of a Python traceback, which names the error."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if not lines:
        return "no error was recorded; see `make logs`"
    if "AbandonedJobError" in lines[-1]:
        return "the worker died during this task"
    return lines[-1][:REASON_LENGTH]


class TaskClient:
    """Enqueues tasks and waits for the results of queries. Methods raise StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self._connection = store.queue_connection()
        self._queue = Queue(QUEUE, connection=self._connection, serializer="json")

    def close(self) -> None:
        """Close the pooled connections."""
        self._connection.close()

    def enqueue(self, task: TaskName, subject: str) -> None:
        """Enqueue a task for the deployment, download or image job of this id; safe to repeat."""
        with Store.errors_mapped():
            self._queue.enqueue_call(**task_call(task, subject), retry=RETRIES)

    def query(self, task: TaskName, *arguments: Any, wait_s: float = 20.0) -> Any:
        """Run a task in the worker and return its JSON result. `arguments` are JSON values.

        Raises WorkerTimeoutError after `wait_s` seconds, and TaskFailedError for an error in the worker.
        """
        with Store.errors_mapped():
            job = self._queue.enqueue_call(
                MODULE + task,
                args=arguments,
                timeout=TIMEOUT_S,
                ttl=max(1, int(wait_s)),  # the worker skips a query whose caller has given up
                result_ttl=RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
                description=task,
            )
            result = _wait_for_result(job, wait_s)
        if result is None:
            raise WorkerTimeoutError(task, wait_s)
        if not result.return_value:
            raise TaskFailedError("error", f"task {task!r} failed in the worker; see `make logs`")
        if "kind" in result.return_value:
            raise TaskFailedError(result.return_value["kind"], result.return_value["detail"])
        return result.return_value["answer"]

    def failed(self) -> list[FailedTask]:
        """Return the tasks that failed at every try, newest first."""
        with Store.errors_mapped():
            found = [self._failed_task(identity) for identity in self._queue.failed_job_registry.get_job_ids(desc=True)]
        return [task for task in found if task is not None]

    def retry(self, identity: str) -> FailedTask:
        """Enqueue a failed task again; raise UnknownTaskError when there is none of this id."""
        with Store.errors_mapped():
            known = self._known(identity)
            try:
                self._queue.failed_job_registry.requeue(identity)
            except (InvalidJobOperation, NoSuchJobError) as exc:
                raise UnknownTaskError(identity) from exc
        return known

    def drop(self, identity: str) -> FailedTask:
        """Delete a failed task; raise UnknownTaskError when there is none of this id."""
        with Store.errors_mapped():
            known = self._known(identity)
            self._queue.failed_job_registry.remove(identity, delete_job=True)
        return known

    def _known(self, identity: str) -> FailedTask:
        found = self._failed_task(identity)
        if found is None:
            raise UnknownTaskError(identity)
        return found

    def _failed_task(self, identity: str) -> FailedTask | None:
        try:
            job = Job.fetch(identity, connection=self._connection, serializer="json")
        except (NoSuchJobError, ValueError):
            # RQ raises ValueError for an id that it would not make
            return None
        function, arguments = _call_of(job)
        # a query's error went to its caller; a task that was enqueued again is no longer failed
        is_query = function.startswith(MODULE) and (not arguments or job.failure_ttl == RESULT_TTL_S)
        if job.get_status(refresh=False) is not JobStatus.FAILED or is_query:
            return None
        result = job.latest_result()
        return FailedTask(
            id=identity,
            task=function.removeprefix(MODULE),
            # what is no task has no subject
            deployment=str(arguments[0]) if arguments and function.startswith(MODULE) else "",
            failed_at=job.ended_at,
            reason=failure_reason((result.exc_string if result else None) or ""),
        )


def _call_of(job: Job) -> tuple[str, Sequence[Any]]:
    """Return function and arguments of an entry, as they are written."""
    try:
        return str(job.func_name), job.args
    except DeserializationError:
        return "(unreadable)", ()


def _wait_for_result(job: Job, wait_s: float) -> Result | None:
    """Block on the job's result stream until it has an entry; None after `wait_s` seconds (rounded up)."""
    deadline = time.monotonic() + wait_s
    while (left_s := deadline - time.monotonic()) > 0:
        # rq takes whole seconds
        result = job.latest_result(timeout=min(WAIT_SLICE_S, math.ceil(left_s)))
        if result is not None:
            return result
    return None
