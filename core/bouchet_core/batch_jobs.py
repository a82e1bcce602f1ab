"""What downloads and image builds have in common: a record, and one Slurm job without GPUs. Values are frozen."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field

from .values import FrozenModel

# the last part of a batch job's Slurm job name is its record's id
_ID = r"[a-z2-7]{12}"


class BatchJobState(StrEnum):
    """State of a batch job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchJob(FrozenModel):
    """The record of one batch job. `version` counts its changes; a save must know the version it replaces."""

    id: str
    state: BatchJobState = BatchJobState.QUEUED
    reason: str = Field(default="", description="why it waits, what it does, or how it ended: a sentence")
    kind: str = Field(default="", description="kind of the failure, for programs")
    job_name: str = Field(default="", description="Slurm's job name; it ends in this record's id")
    slurm_id: int | None = None
    asked_at: datetime | None = Field(default=None, description="when sbatch was last called")
    log: str | None = Field(default=None, description="path of the job's log on the cluster")
    stop_requested_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    version: int = 0

    @property
    def subject(self) -> str:
        """What it works on; a subject has one live batch job at a time."""
        raise NotImplementedError

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.state in (BatchJobState.QUEUED, BatchJobState.RUNNING)

    def changed(self, now: datetime, **fields: object) -> Self:
        """Return the next version with these fields, or this value if nothing changes."""
        new = self.model_copy(update=fields)
        return self if new == self else new.model_copy(update={"updated_at": now, "version": self.version + 1})

    def asked_to_stop(self, now: datetime) -> Self:
        """Return the next version with a stop requested; a batch job that has ended stays as it is."""
        return self.changed(now, stop_requested_at=self.stop_requested_at or now) if self.is_live else self

    def ended(self, now: datetime, state: BatchJobState, reason: str, kind: str = "", **fields: object) -> Self:
        """Return the next version in a final state."""
        return self.changed(now, state=state, reason=reason, kind=kind, **fields)


def is_batch_job_name(job_name: str, stem: str) -> bool:
    """Return whether a Slurm job name is `stem` and the id of a record, even of a record that was lost."""
    return re.fullmatch(re.escape(stem) + _ID, job_name) is not None
