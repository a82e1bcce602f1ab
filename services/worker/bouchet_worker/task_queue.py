"""The RQ queue as the worker uses it: only tasks run, lost ones are enqueued again, failed ones after a delay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.errors import BouchetError
from bouchet_core.store import Store
from bouchet_core.tasks import MODULE, RETRY_AFTER_S, TaskName, task_call, task_id
from rq import Queue, Retry
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from . import tasks

log = logging.getLogger(__name__)

# a task for a record that has not changed for this long is lost: the API enqueues one with each request
LOST_TASK = timedelta(seconds=3)
# a task that failed all its tries is left for the user this long, then it is tried again
FAILED_PAUSE = timedelta(minutes=10)
RETRIES = Retry(len(RETRY_AFTER_S), RETRY_AFTER_S)
# every function that an entry of the queue may name
FUNCTIONS: dict[str, Callable[..., Any]] = {f"{MODULE}{task}": getattr(tasks, task) for task in TaskName}


class NotATaskError(BouchetError):
    """An entry of the queue names a function that is no task. It is not imported."""

    kind = "not_a_task"

    def __init__(self, function: str) -> None:
        self.function = function
        super().__init__(f"{function!r} is not a task of this version of bouchet-llm, so it was not run; drop it")


class TaskJob(Job):
    """An entry of the queue that can run tasks only: RQ's own class imports and calls whatever an entry names."""

    @property
    def func(self) -> Callable[..., Any]:
        """Return the task's function. Raises NotATaskError."""
        function = FUNCTIONS.get(self._function_name())
        if function is None or self.instance is not None:
            log.error("an entry of the queue is dropped: %r is not a task", self._function_name()[:200])
            raise NotATaskError(self._function_name()[:200])
        return function

    def restore(self, raw_data: Any) -> Any:
        """Read the entry without what tasks do not have: callbacks, which are functions, and webhooks, which are URLs.

        An entry that is no task is not tried again.
        """
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
        if self._function_name() not in FUNCTIONS:
            self.retries_left = None

    def _function_name(self) -> str:
        try:
            return str(self.func_name)
        except DeserializationError:
            return "(unreadable)"


class TaskQueue:
    """Sends tasks and revives delayed ones. Methods raise StoreUnavailableError."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def send(self, task: TaskName, subject: str) -> None:
        """Enqueue the task, unless it waits for its next try or for the user. A second call is harmless."""
        identity = task_id(task, subject)
        with Store.errors_mapped():
            if self._is_paused(identity):
                return
            self.queue.enqueue_call(**task_call(task, subject), retry=RETRIES)

    def tend(self) -> None:
        """Enqueue the tasks whose delay is over."""
        with Store.errors_mapped():
            delayed = self.queue.scheduled_job_registry
            for identity in delayed.get_jobs_to_schedule():
                job = self._job(identity)
                if job is not None:
                    # removed from the registry afterwards: after a crash in between it runs twice, which is harmless
                    self.queue.enqueue_job(job)
                delayed.remove(identity)

    def _is_paused(self, identity: str) -> bool:
        job = self._job(identity)
        if job is None:
            return False
        status = job.get_status(refresh=False)
        if status is JobStatus.SCHEDULED:
            return identity in self.queue.scheduled_job_registry
        return status is JobStatus.FAILED and job.ended_at is not None and _age(job.ended_at) < FAILED_PAUSE

    def _job(self, identity: str) -> Job | None:
        try:
            return Job.fetch(identity, connection=self.queue.connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return None


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
