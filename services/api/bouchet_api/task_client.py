"""What the API asks of the worker: tasks by name, so that neither imports the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bouchet_core.errors import BouchetError
from bouchet_core.store import Store
from bouchet_core.tasks import MODULE, QUEUE, RESULT_TTL_S, RETRY_AFTER_S, TIMEOUT_S, TaskName, task_call
from rq import Queue, Retry
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus

REASON_LENGTH = 300
# how often a waiting question looks for its answer
LOOK_S = 0.02
TRIES = Retry(len(RETRY_AFTER_S), RETRY_AFTER_S)


class WorkerTimeoutError(BouchetError):
    """The worker did not answer a question in time."""

    kind = "worker_silent"

    def __init__(self, question: str, waited_s: float) -> None:
        super().__init__(f"the worker did not answer {question!r} within {waited_s:.0f} s; see `make logs`")


class TaskFailedError(BouchetError):
    """The error that the worker met; `kind` is that error's."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(detail)


class UnknownTaskError(BouchetError):
    """No failed task has this id."""

    kind = "unknown_task"

    def __init__(self, identity: str) -> None:
        super().__init__(f"no failed task {identity!r}; `bouchet tasks` lists them")


@dataclass(frozen=True)
class FailedTask:
    """A task that was tried to the end. reason: one line, no trace; the worker's log has that."""

    id: str
    task: str
    deployment: str
    failed_at: datetime | None
    reason: str


def failure_in_words(trace: str) -> str:
    """The last line of a Python trace, which names the error."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if not lines:
        return "it left no word; `make logs` may show more"
    if "AbandonedJobError" in lines[-1]:
        return "its worker died while it was at it"
    return lines[-1][:REASON_LENGTH]


class Tasks:
    """The queue, seen from its writing end. Raises StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self._connection = store.queue_connection()
        self._queue = Queue(QUEUE, connection=self._connection, serializer="json")

    def close(self) -> None:
        """Closes the pooled connections."""
        self._connection.close()

    def submit(self, deployment: str) -> None:
        """Asks the worker to submit a job for the deployment. May be asked twice: the worker adopts what is there."""
        self._enqueue(TaskName.SUBMIT, deployment)

    def stop(self, deployment: str) -> None:
        """Asks the worker to end the deployment's jobs. May be asked twice."""
        self._enqueue(TaskName.CANCEL, deployment)

    def download(self, download: str) -> None:
        """Asks the worker to fetch a model. May be asked twice: a job that fetches it already is adopted."""
        self._enqueue(TaskName.DOWNLOAD, download)

    def stop_download(self, download: str) -> None:
        """Asks the worker to end a download. May be asked twice."""
        self._enqueue(TaskName.CANCEL_DOWNLOAD, download)

    def image(self, job: str) -> None:
        """Asks the worker to build or verify an image. May be asked twice: a job that does it already is adopted."""
        self._enqueue(TaskName.IMAGE, job)

    def stop_image(self, job: str) -> None:
        """Asks the worker to end that. May be asked twice."""
        self._enqueue(TaskName.CANCEL_IMAGE, job)

    def look_at_disk(self) -> None:
        """Asks the worker which models lie on the cluster; the store has the answer."""
        self._enqueue(TaskName.LIST_MODELS, "now")

    def ask(self, question: TaskName, *arguments: Any, wait_s: float = 20.0) -> Any:
        """Has the worker's task `question` answered: the JSON that it returns. Arguments are JSON too.

        Raises WorkerTimeoutError after wait_s, and TaskFailedError for an error that the worker met.
        """
        with Store.errors_mapped():
            job = self._queue.enqueue_call(
                MODULE + question,
                args=arguments,
                timeout=TIMEOUT_S,
                ttl=max(1, int(wait_s)),  # nobody waits for it any longer
                result_ttl=RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
                description=question,
            )
            said = _result(job, wait_s)
        if said is None:
            raise WorkerTimeoutError(question, wait_s)
        if "kind" in said:
            raise TaskFailedError(said["kind"], said["detail"])
        return said["answer"]

    def failed(self) -> list[FailedTask]:
        """Those that were tried to the end and wait for a person, the newest first."""
        with Store.errors_mapped():
            found = [self._failed(identity) for identity in self._queue.failed_job_registry.get_job_ids(desc=True)]
        return [task for task in found if task is not None]

    def retry(self, identity: str) -> FailedTask:
        """Tries a failed one once more, now. Raises UnknownTaskError."""
        with Store.errors_mapped():
            known = self._known(identity)
            try:
                self._queue.failed_job_registry.requeue(identity)
            except (InvalidJobOperation, NoSuchJobError) as exc:
                raise UnknownTaskError(identity) from exc
        return known

    def drop(self, identity: str) -> FailedTask:
        """Forgets a failed one. Raises UnknownTaskError."""
        with Store.errors_mapped():
            known = self._known(identity)
            self._queue.failed_job_registry.remove(identity, delete_job=True)
        return known

    def _known(self, identity: str) -> FailedTask:
        found = self._failed(identity)
        if found is None:
            raise UnknownTaskError(identity)
        return found

    def _failed(self, identity: str) -> FailedTask | None:
        try:
            job = Job.fetch(identity, connection=self._connection, serializer="json")
        except NoSuchJobError:
            return None
        # a question's asker has heard of it; one that was put on the queue again is failed no more
        if job.get_status(refresh=False) is not JobStatus.FAILED or not job.args or job.failure_ttl == RESULT_TTL_S:
            return None
        result = job.latest_result()
        said = (result.exc_string if result else None) or ""
        task = str(job.func_name).removeprefix(MODULE)
        return FailedTask(identity, task, str(job.args[0]), job.ended_at, failure_in_words(said))

    def _enqueue(self, task: TaskName, deployment: str) -> None:
        with Store.errors_mapped():
            self._queue.enqueue_call(**task_call(task, deployment), retry=TRIES)


def _result(job: Job, wait_s: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        result = job.latest_result()
        if result is not None:
            # a task that raised says so in the worker's log
            return result.return_value or {"kind": "error", "detail": "the worker failed; `make logs` shows why"}
        time.sleep(LOOK_S)
    return None
