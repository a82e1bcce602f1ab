"""Keeping the records of batch jobs up to date, from the reconcile loop's one squeue. `end_record` is pure."""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic

from bouchet_core.batch_jobs import BatchJob, BatchJobState, JobStep
from bouchet_core.errors import GatewayError, RemoteFileMissingError, SlurmOutputError, StaleRecordError
from bouchet_core.tasks import TaskName
from pydantic import ValidationError

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm.parsing import QueueRow
from bouchet_worker.slurm.pending_reasons import describe_pending_reason
from bouchet_worker.slurm.queries import JobRef, last_state
from bouchet_worker.slurm.states import STATES, StateClass, parse_state
from bouchet_worker.slurm.submission import BEING_CANCELLED
from bouchet_worker.task_queue import LOST_TASK

from .submit import BatchJobT, BatchJobType, BatchProgress, ProgressT

log = logging.getLogger(__name__)

# before a task that did not help is sent again
RESEND_S = 6.0
# a program on the login node that has not written its progress for this long is started again
SILENT_S = 90.0
# reasons of an end by Slurm's state
END_REASONS: Mapping[str, str] = {
    "TIMEOUT": "its walltime was used up",
    "OUT_OF_MEMORY": "it ran out of memory",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "it was preempted by other jobs",
    "CANCELLED": "it was cancelled with scancel, not through bouchet-llm",
}


def update_running(record: BatchJobT, progress: BatchProgress | None, now: datetime) -> BatchJobT:
    """Return the record of a job that runs."""
    step = (progress.step if progress else "") or "starting"
    reason = BEING_CANCELLED if record.stop_requested_at else step
    return record.changed(now, state=BatchJobState.RUNNING, reason=reason)


def end_record(
    record: BatchJobT,
    job_type: BatchJobType[BatchJobT, ProgressT],
    progress: BatchProgress | None,
    slurm_state: str,
    now: datetime,
) -> BatchJobT:
    """Return the record after its job's end. slurm_state: as printed, empty where it is unknown or not needed."""
    if progress is not None and progress.state == "done":
        return record.ended(now, BatchJobState.DONE, progress.sentence)
    if record.stop_requested_at is not None:
        return record.ended(now, BatchJobState.CANCELLED, job_type.cancelled_message(record))
    if progress is not None and progress.state == "failed":
        return record.ended(now, BatchJobState.FAILED, progress.sentence, progress.kind)
    unknown = "it ended without an error message" + (f" (Slurm state {slurm_state})" if slurm_state else "")
    reason = END_REASONS.get(slurm_state.split(" ")[0], unknown)
    return record.ended(now, BatchJobState.FAILED, f"{reason}; {job_type.interrupted_advice(record)}", "job_ended")


@dataclass
class BatchJobWatch(Generic[BatchJobT, ProgressT]):
    """Watches all batch jobs of one type."""

    context: WorkerContext
    job_type: BatchJobType[BatchJobT, ProgressT]
    # puts a task for a record on the queue
    send: Callable[[TaskName, str], None]
    # monotonic seconds of the last task by record
    _sent: dict[str, float] = field(default_factory=dict)

    def settle(self, live: Sequence[BatchJobT], rows: Sequence[QueueRow] | None) -> None:
        """Update every record. rows: the queue, None when squeue failed, which changes nothing."""
        self._sent = {record.id: at for record in live if (at := self._sent.get(record.id)) is not None}
        for record in live:
            try:
                self._settle(record, rows)
            except StaleRecordError:
                continue
            except (GatewayError, SlurmOutputError) as exc:
                log.debug("%s %s: %s", self.job_type.noun, record.id, exc)

    def _settle(self, record: BatchJobT, rows: Sequence[QueueRow] | None) -> None:
        if record.slurm_id is None:
            self._settle_unsubmitted(record)
            return
        if rows is None:
            return
        row = next((r for r in rows if (r.job_id, r.name) == (record.slurm_id, record.job_name)), None)
        progress = self._read_progress(record)
        is_reported = progress is not None and progress.state in ("done", "failed")
        slurm_state = "" if row is not None or is_reported else self._last_state(record)
        self._save(record, lambda old: self._observed(old, row, progress, slurm_state))
        asked = record.stop_requested_at
        if row is not None and asked is not None and self.context.now() - asked >= LOST_TASK:
            self._send(record)

    def _observed(
        self, record: BatchJobT, row: QueueRow | None, progress: ProgressT | None, slurm_state: str
    ) -> BatchJobT:
        """Return the record after one observation. row: None where squeue no longer lists the job."""
        now = self.context.now()
        if row is not None and STATES[parse_state(row.state)].state_class is StateClass.WAITING:
            reason = BEING_CANCELLED if record.stop_requested_at else describe_pending_reason(row.reason)
            return record.changed(now, state=BatchJobState.QUEUED, reason=reason, **self.job_type.queued_fields())
        if progress is not None:
            record = self._with_progress(record, progress)
        if row is not None:
            return update_running(record, progress, now)
        return end_record(record, self.job_type, progress, slurm_state, now)

    def _with_progress(self, record: BatchJobT, progress: ProgressT) -> BatchJobT:
        """Return the record with the counts of its job, and with all steps that the job has begun."""
        steps = tuple(JobStep(name=one.name, at=datetime.fromtimestamp(one.at, UTC)) for one in progress.steps)
        return record.changed(self.context.now(), steps=steps, **self.job_type.progress_fields(progress))

    def _settle_unsubmitted(self, record: BatchJobT) -> None:
        started = record.asked_at is not None and self.job_type.runs_on_login_node(record, self.context.site)
        if started and self._settle_on_login_node(record):
            return
        if self.context.now() - record.updated_at >= LOST_TASK:
            self._send(record)

    def _settle_on_login_node(self, record: BatchJobT) -> bool:
        """Update the record from its progress file; return whether no task is needed."""
        progress = self._read_progress(record)
        if progress is None:
            return False
        now = self.context.now()
        if progress.state == "running":
            self._save(record, lambda old: update_running(self._with_progress(old, progress), progress, now))
            return now.timestamp() - progress.at < SILENT_S and record.stop_requested_at is None
        self._save(record, lambda old: end_record(self._with_progress(old, progress), self.job_type, progress, "", now))
        return True

    def _save(self, record: BatchJobT, change: Callable[[BatchJobT], BatchJobT]) -> None:
        records = self.job_type.records(self.context.store)
        new = records.update(record.id, lambda old: change(old) if old.is_live else old)
        if new.state is not record.state:
            log.info("%s %s: %s -> %s %s", self.job_type.noun, record.id, record.state, new.state, new.reason)
        if not new.is_live and self.job_type.follow_up_task is not None:
            self.send(self.job_type.follow_up_task, record.id)

    def _send(self, record: BatchJob) -> None:
        now = time.monotonic()
        if now - self._sent.get(record.id, -RESEND_S) < RESEND_S:
            return
        self._sent[record.id] = now
        cancelled = record.stop_requested_at is not None
        self.send(self.job_type.cancel_task if cancelled else self.job_type.submit_task, record.id)

    def _read_progress(self, record: BatchJobT) -> ProgressT | None:
        """Return the job's progress; None while it has written none, or another job's file is there."""
        path = posixpath.join(self.context.paths.job(record.job_name), "progress.json")
        try:
            progress = self.job_type.progress_model.model_validate_json(self.context.gateway.get(path).data)
        except (RemoteFileMissingError, ValidationError):
            return None
        if progress.job_name != record.job_name:
            return None
        return self.job_type.add_hint(self.context, record, progress)

    def _last_state(self, record: BatchJob) -> str:
        return last_state(self.context, JobRef(record.job_name, record.slurm_id, record.asked_at))
