"""Keeps the records of batch jobs true, within the loop's one look. `seen` is pure; the rest is thin."""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic

from bouchet_core.batch_jobs import BatchJob, BatchJobState
from bouchet_core.errors import (
    GatewayError,
    RemoteCommandError,
    RemoteFileMissingError,
    SlurmOutputError,
    StaleRecordError,
)
from bouchet_core.tasks import TaskName
from pydantic import ValidationError

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.pending_reasons import reason_in_words
from bouchet_worker.slurm.states import STATES, StateClass, parse_state

from .submit import AnyBatchJob, AnyProgress, Kind, Progress

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 20.0
# the api puts a task on the queue; after this long without a change it must have been lost
LOST_TASK = timedelta(seconds=3)
TASK_AGAIN_S = 6.0
# a program on the login node that has said nothing for so long is started again
SILENT_S = 90.0
GONE = "it ended without a word"
WORDS: Mapping[str, str] = {
    "TIMEOUT": "its walltime is used up",
    "OUT_OF_MEMORY": "it ran out of memory",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "others took its node",
    "CANCELLED": "somebody cancelled it (with scancel), not through bouchet-llm",
}


def runs(record: AnyBatchJob, progress: Progress | None, now: datetime) -> AnyBatchJob:
    """The record while its job runs."""
    reason = (progress.step if progress else "") or "starting"
    return record.changed(
        now, state=BatchJobState.RUNNING, reason="being cancelled" if record.stop_requested_at else reason
    )


def is_over(
    record: AnyBatchJob, kind: Kind[AnyBatchJob, AnyProgress], progress: Progress | None, word: str, now: datetime
) -> AnyBatchJob:
    """The record after its job's end. word: Slurm's about it."""
    if progress is not None and progress.state == "done":
        return record.ended(now, BatchJobState.DONE, progress.sentence)
    if record.stop_requested_at is not None:
        return record.ended(now, BatchJobState.CANCELLED, kind.cancelled(record))
    if progress is not None and progress.state == "failed":
        return record.ended(now, BatchJobState.FAILED, progress.sentence, progress.kind)
    said = WORDS.get(word.split(" ")[0], GONE + (f" (Slurm says {word})" if word else ""))
    return record.ended(now, BatchJobState.FAILED, f"{said}; {kind.cut_short(record)}", "job_ended")


@dataclass
class BatchJobWatch(Generic[AnyBatchJob, AnyProgress]):
    """send(task, id) puts a task on the queue."""

    context: WorkerContext
    kind: Kind[AnyBatchJob, AnyProgress]
    send: Callable[[TaskName, str], None]
    _sent: dict[str, float] = field(default_factory=dict)

    def live(self) -> list[AnyBatchJob]:
        """The records to watch."""
        return self.kind.records(self.context.store).live()

    def settle(self, live: Sequence[AnyBatchJob], rows: Sequence[slurm.QueueRow] | None) -> None:
        """Moves every record to what was seen. rows: None when Slurm could not be asked, which changes nothing."""
        self._sent = {record.id: at for record in live if (at := self._sent.get(record.id)) is not None}
        for record in live:
            try:
                self._settle(record, rows)
            except StaleRecordError:
                continue
            except (GatewayError, SlurmOutputError) as exc:
                log.debug("%s %s: %s", self.kind.word, record.id, exc)

    def _settle(self, record: AnyBatchJob, rows: Sequence[slurm.QueueRow] | None) -> None:
        if record.slurm_id is None:
            self._unsubmitted(record)
            return
        if rows is None:
            return
        row = next((r for r in rows if (r.job_id, r.name) == (record.slurm_id, record.job_name)), None)
        progress = self._progress(record)
        is_told = progress is not None and progress.state in ("done", "failed")
        word = "" if row is not None or is_told else self._word(record)
        self._save(record, lambda old: self._seen(old, row, progress, word))
        asked = record.stop_requested_at
        if row is not None and asked is not None and self.context.now() - asked >= LOST_TASK:
            self._send(record)

    def _seen(
        self, record: AnyBatchJob, row: slurm.QueueRow | None, progress: AnyProgress | None, word: str
    ) -> AnyBatchJob:
        """The record after one look. row: None where squeue lists the job no more; word: Slurm's about its end."""
        now = self.context.now()
        if row is not None and STATES[parse_state(row.state)].state_class is StateClass.WAITING:
            reason = "being cancelled" if record.stop_requested_at else reason_in_words(row.reason)
            return record.changed(now, state=BatchJobState.QUEUED, reason=reason, **self.kind.idle)
        if progress is not None:
            record = record.changed(now, **self.kind.counts(progress))
        if row is not None:
            return runs(record, progress, now)
        return is_over(record, self.kind, progress, word, now)

    def _unsubmitted(self, record: AnyBatchJob) -> None:
        on_login = self.kind.on_login(record, self.context.site) and record.asked_at is not None
        if on_login and self._on_login_node(record):
            return
        if self.context.now() - record.updated_at >= LOST_TASK:
            self._send(record)

    def _on_login_node(self, record: AnyBatchJob) -> bool:
        """Whether its own words say how it is: it speaks, or it has ended."""
        progress = self._progress(record)
        if progress is None:
            return False
        now, counts = self.context.now(), self.kind.counts(progress)
        if progress.state == "running":
            self._save(record, lambda old: runs(old.changed(now, **counts), progress, now))
            return now.timestamp() - progress.at < SILENT_S and record.stop_requested_at is None
        self._save(record, lambda old: is_over(old.changed(now, **counts), self.kind, progress, "", now))
        return True

    def _save(self, record: AnyBatchJob, change: Callable[[AnyBatchJob], AnyBatchJob]) -> None:
        records = self.kind.records(self.context.store)
        new = records.update(record.id, lambda old: change(old) if old.is_live else old)
        if new.state is not record.state:
            log.info("%s %s: %s -> %s %s", self.kind.word, record.id, record.state, new.state, new.reason)
        if not new.is_live and self.kind.after is not None:
            self.send(self.kind.after, record.id)

    def _send(self, record: BatchJob) -> None:
        now = time.monotonic()
        if now - self._sent.get(record.id, -TASK_AGAIN_S) < TASK_AGAIN_S:
            return
        self._sent[record.id] = now
        self.send(self.kind.start if record.stop_requested_at is None else self.kind.stop, record.id)

    def _progress(self, record: AnyBatchJob) -> AnyProgress | None:
        """What the job says; None while it has said nothing, or another job did."""
        path = posixpath.join(self.context.layout.job(record.job_name), "progress.json")
        try:
            found = self.kind.progress.model_validate_json(self.context.gateway.get(path).data)
        except (RemoteFileMissingError, ValidationError):
            return None
        return self.kind.hint(self.context, record, found) if found.job_name == record.job_name else None

    def _word(self, record: BatchJob) -> str:
        """Slurm's word about a job that is not queued any more, empty where it has forgotten it."""
        try:
            text = self.context.gateway.run(slurm.show_job_argv(record.slurm_id or 0), timeout_s=LOOK_TIMEOUT_S).stdout
            row = slurm.parse_job(text)
        except (RemoteCommandError, SlurmOutputError):
            return ""
        return row.word if row.name == record.job_name else ""
