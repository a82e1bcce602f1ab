"""The queue, seen from the worker: tasks that got lost are put on it again, those that failed wait their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bouchet_core.store import Store
from bouchet_core.tasks import RETRY_AFTER_S, TaskName, task_call, task_id
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

# after its last try a failed task waits for a person this long, then it gets another round
FAILED_AGAIN = timedelta(minutes=10)
TRIES = Retry(len(RETRY_AFTER_S), RETRY_AFTER_S)


class TaskQueue:
    """Raises StoreUnavailableError."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def send(self, task: TaskName, deployment: str) -> None:
        """Puts the task on the queue, unless it waits for its next try or for a person. Twice does no harm."""
        identity = task_id(task, deployment)
        with Store.errors_mapped():
            if self._rests(identity):
                return
            self.queue.enqueue_call(**task_call(task, deployment), retry=TRIES)

    def tend(self) -> None:
        """Brings tasks whose pause is over back to the queue."""
        with Store.errors_mapped():
            pauses = self.queue.scheduled_job_registry
            for identity in pauses.get_jobs_to_schedule():
                job = self._job(identity)
                if job is not None:
                    # then taken out of the pause: cut short between the two, it runs twice, which is none the worse
                    self.queue.enqueue_job(job)
                pauses.remove(identity)

    def _rests(self, identity: str) -> bool:
        job = self._job(identity)
        if job is None:
            return False
        status = job.get_status(refresh=False)
        if status is JobStatus.SCHEDULED:
            return identity in self.queue.scheduled_job_registry
        return status is JobStatus.FAILED and job.ended_at is not None and _age(job.ended_at) < FAILED_AGAIN

    def _job(self, identity: str) -> Job | None:
        try:
            return Job.fetch(identity, connection=self.queue.connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return None


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
