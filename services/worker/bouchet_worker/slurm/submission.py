"""The state machine from a record to its one Slurm job, shared by deployments and batch jobs.

Any step may be the last one before a crash, after which the task is run again. Exactly one job results all the same:
sbatch is called only under the record's lease, only after the record stores that it is about to be called, and never
while a job of that name exists or may still arrive.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from bouchet_core.errors import (
    ClusterUnavailableError,
    ConfigurationError,
    GatewayError,
    LaunchRefusedError,
    NoFreeSlotError,
    NotAllowedError,
    RecordError,
    RemoteCommandError,
    RemoteFileError,
    SlurmOutputError,
    UnknownModelError,
    UntrustedFolderError,
)

from bouchet_worker.context import WorkerContext

from .commands import SBATCH_TIMEOUT_S, SCANCEL_TIMEOUT_S, scancel_argv
from .error_messages import describe_messages, describe_refusal, explain_outage, is_busy, may_have_submitted
from .parsing import QueueRow, parse_job_id
from .queries import JobRef, find_job, list_queue, may_still_arrive

log = logging.getLogger(__name__)

# longer than sbatch with the gateway's grace period, because the lease is renewed right before that call
LEASE_S = 90.0

# errors that a later attempt would meet again
PERMANENT_ERRORS = (
    LaunchRefusedError,
    UnknownModelError,
    ConfigurationError,
    NoFreeSlotError,
    NotAllowedError,
    RemoteFileError,
    UntrustedFolderError,
)

# results of a task, for the log
NOTHING_TO_DO = "nothing to do"
RETRY_LATER = "retry later"
BUSY_ELSEWHERE = "another worker acts for it"
HAS_ENDED = "has ended"
FAILED = "failed"
NOT_QUEUED = "not in the queue"

BEING_CANCELLED = "being cancelled"
CANCELLED_UNSUBMITTED = "cancelled before it was submitted"


class SubmittedRecord(Protocol):
    """What a record of any type has."""

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""


RecordT = TypeVar("RecordT", bound=SubmittedRecord)


@dataclass(frozen=True)
class FoundJob:
    """A job in Slurm that does what the record requests."""

    slurm_id: int
    name: str
    # what sbatch printed beside its id
    message: str = ""


class JobSubmission(ABC, Generic[RecordT]):
    """Submits or cancels the Slurm job of one record. Built for one run of a task."""

    # of the record, for logs
    noun: str

    def __init__(self, context: WorkerContext, identity: str) -> None:
        self.context, self.identity = context, identity

    def submit(self) -> str:
        """Submit the job, or find the one that exists; return a short result for the log.

        Raises RecordError and StoreUnavailableError; the reconcile loop then enqueues the task again.
        """
        record = self._load()
        if record is None:
            return f"no such {self.noun}"
        if not self.wants_job(record):
            return NOTHING_TO_DO
        lease = self.lease_name(record)
        if not self.context.store.lease(lease, self.context.owner, LEASE_S):
            return BUSY_ELSEWHERE
        try:
            return self._submit_mapped(self.load())
        finally:
            self.context.store.release(lease, self.context.owner)

    def cancel(self) -> str:
        """Cancel the job by its id; return a short result for the log. The record ends when Slurm reports the end."""
        if self._load() is None:
            return f"no such {self.noun}"
        record = self.request_cancel()
        if not record.is_live:
            return HAS_ENDED
        lease = self.lease_name(record)
        if not self.context.store.lease(lease, self.context.owner, LEASE_S):
            return BUSY_ELSEWHERE
        try:
            return self._cancel_mapped(self.load())
        finally:
            self.context.store.release(lease, self.context.owner)

    # submission

    def _load(self) -> RecordT | None:
        try:
            return self.load()
        except RecordError:
            return None

    def _submit_mapped(self, record: RecordT) -> str:
        try:
            return self._submit(record)
        except PERMANENT_ERRORS as exc:
            log.warning("%s %s: submission failed: %s", self.noun, self.identity, exc)
            self.end_failed(exc)
            return FAILED
        except (GatewayError, SlurmOutputError) as exc:
            waits = "waiting for the SSH connection" if isinstance(exc, ClusterUnavailableError) else "retrying"
            log.warning("%s %s: %s: %s", self.noun, self.identity, waits, exc)
            self.set_reason(f"{waits}: {explain_outage(str(exc))}")
            return RETRY_LATER

    def _submit(self, record: RecordT) -> str:
        if not self.wants_job(record):
            return NOTHING_TO_DO
        started = self.start_without_slurm(record)
        if started is not None:
            return started
        rows = list_queue(self.context)
        record = self.prepare(record)
        found = self.find(record, rows)
        if found is None and may_still_arrive(self.context, self.job_ref(record)):
            self.set_reason("sbatch has not answered; checking whether the job arrived")
            return RETRY_LATER
        if found is None:
            found = self._sbatch(self.stage(record))
        if found is None:
            return RETRY_LATER
        self.record_job_id(found)
        log.info("%s %s: Slurm job %s (%s)", self.noun, self.identity, found.slurm_id, found.name)
        return f"job {found.slurm_id}"

    def _sbatch(self, record: RecordT) -> FoundJob | None:
        """Return the new job, None when it must not be submitted any more."""
        argv = self.sbatch_command(record)
        record = self.record_submission(argv)
        if not self.wants_job(record):
            return None
        if not self.context.store.lease(self.lease_name(record), self.context.owner, LEASE_S):
            return None
        try:
            output = self.context.gateway.run(argv, timeout_s=SBATCH_TIMEOUT_S)
        except RemoteCommandError as exc:
            if may_have_submitted(exc.stderr) or is_busy(exc.stderr):
                raise
            raise LaunchRefusedError(describe_refusal(exc.stderr)) from exc
        return FoundJob(parse_job_id(output.stdout), self.job_ref(record).name, describe_messages(output.stderr))

    # cancellation

    def _cancel_mapped(self, record: RecordT) -> str:
        try:
            return self._cancel(record)
        except (GatewayError, SlurmOutputError) as exc:
            log.warning("%s %s: cancel failed, retrying: %s", self.noun, self.identity, exc)
            self.set_reason(f"will be cancelled as soon as the cluster answers: {explain_outage(str(exc))}")
            return RETRY_LATER

    def _cancel(self, record: RecordT) -> str:
        cancelled = self.cancel_without_slurm(record)
        if cancelled is not None:
            return cancelled
        rows = list_queue(self.context)
        job = self.job_ref(record)
        found = self.find(record, rows) if job.slurm_id is None else FoundJob(job.slurm_id, job.name)
        if found is None and may_still_arrive(self.context, job):
            return RETRY_LATER
        if found is None:
            self.end_cancelled(CANCELLED_UNSUBMITTED)
            return CANCELLED_UNSUBMITTED
        if job.slurm_id is None:
            record = self.record_job_id(found)
        if not any((row.job_id, row.name) == (found.slurm_id, found.name) for row in rows):
            # the job has ended, or Slurm uses its id for another job by now: the reconcile loop finds out which
            return NOT_QUEUED
        argv = self.cancel_command(record, found)
        self.context.gateway.run(argv, timeout_s=SCANCEL_TIMEOUT_S)
        log.info("%s %s: %s", self.noun, self.identity, " ".join(argv))
        self.record_cancelling()
        return f"cancelled job {found.slurm_id}"

    # the job of the record

    @abstractmethod
    def load(self) -> RecordT:
        """Return the newest version of the record. Raises RecordError when there is none."""

    @abstractmethod
    def wants_job(self, record: RecordT) -> bool:
        """Return whether a job has still to be submitted for it."""

    @abstractmethod
    def lease_name(self, record: RecordT) -> str:
        """Return the lease under which one worker at a time acts for it."""

    @abstractmethod
    def job_ref(self, record: RecordT) -> JobRef:
        """Return what the record knows of its job."""

    def find(self, record: RecordT, rows: Sequence[QueueRow]) -> FoundJob | None:
        """Return the record's job in Slurm, None where none is found. rows: the queue."""
        job = self.job_ref(record)
        slurm_id = find_job(self.context, job, rows)
        return None if slurm_id is None else FoundJob(slurm_id, job.name)

    # steps of a submission

    @abstractmethod
    def prepare(self, record: RecordT) -> RecordT:
        """Store the job's name, and what else is decided before anything changes on the cluster."""

    @abstractmethod
    def stage(self, record: RecordT) -> RecordT:
        """Check the request and upload the job's files. Raises LaunchRefusedError when the job cannot succeed."""

    @abstractmethod
    def sbatch_command(self, record: RecordT) -> list[str]:
        """Return the command that submits the job."""

    def start_without_slurm(self, record: RecordT) -> str | None:
        """Start the work on the login node and return the result; None where it needs a Slurm job."""
        return None

    def cancel_without_slurm(self, record: RecordT) -> str | None:
        """Cancel work that is not in Slurm and return the result; None where Slurm must be queried."""
        return None

    def cancel_command(self, record: RecordT, job: FoundJob) -> list[str]:
        """Return the command that cancels the job."""
        return scancel_argv(job.slurm_id)

    # changes of the record; each one leaves a record that has ended as it is

    @abstractmethod
    def record_submission(self, argv: Sequence[str]) -> RecordT:
        """Store that sbatch is about to be called, unless no job is wanted any more; return the newest record."""

    @abstractmethod
    def record_job_id(self, job: FoundJob) -> RecordT:
        """Store the job's Slurm id."""

    @abstractmethod
    def set_reason(self, reason: str) -> None:
        """Store why the record does not advance."""

    @abstractmethod
    def end_failed(self, error: Exception) -> None:
        """End the record: the job cannot be submitted."""

    @abstractmethod
    def request_cancel(self) -> RecordT:
        """Store that the job is no longer wanted, once; return the newest record."""

    @abstractmethod
    def record_cancelling(self) -> None:
        """Store that Slurm was asked to end the job."""

    @abstractmethod
    def end_cancelled(self, reason: str) -> None:
        """End the record: nothing of it is on the cluster."""
