"""The RQ queue as the worker uses it: lost tasks are enqueued again, failed ones after a delay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bouchet_core.store import Store
from bouchet_core.tasks import RETRY_AFTER_S, TaskName, task_call, task_id
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

# a task for a record that has not changed for this long is lost: the API enqueues one with each request
LOST_TASK = timedelta(seconds=3)
# a task that failed all its tries is left for the user this long, then it is tried again
FAILED_PAUSE = timedelta(minutes=10)
RETRIES = Retry(len(RETRY_AFTER_S), RETRY_AFTER_S)


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
