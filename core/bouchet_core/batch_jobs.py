"""Batch jobs, Slurm jobs without GPUs: what all have in common, downloads, and the models on the cluster's disk.

Image builds are in `images`. Values are frozen, sizes are in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from .values import FrozenModel, HubId

ModelId = Annotated[HubId, StringConstraints(max_length=140)]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
DOWNLOAD_JOB_PREFIX = "bouchet-download-"
# the last part of a batch job's Slurm job name is its record's id
_ID = r"[a-z2-7]{12}"


class BatchJobState(StrEnum):
    """State of a batch job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobStep(FrozenModel):
    """A step of a batch job."""

    name: str
    at: datetime = Field(description="when it began")


class BatchJob(FrozenModel):
    """The record of one batch job. `version` counts its changes; a save must know the version it replaces."""

    id: str
    state: BatchJobState = BatchJobState.QUEUED
    reason: str = Field(default="", description="why it waits, what it does, or how it ended: a sentence")
    steps: tuple[JobStep, ...] = Field(default=(), description="all steps so far in their order, however short")
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

    def difference(self, wanted: Self) -> str:
        """Return why this does not serve as the other one of the same subject, empty if it does."""
        return ""

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


class DownloadRequest(FrozenModel):
    """The body of a request for a download."""

    model: str = Field(min_length=1, max_length=200, description="name in the catalog, or a full id `org/name`")
    revision: Revision | None = Field(default=None, description="branch, tag or commit; the newest by default")


class Download(BatchJob):
    """The record of one download."""

    model: ModelId
    revision: Revision = "main"
    commit: str | None = Field(default=None, description="the commit of the revision when the download began")
    bytes: int = Field(default=0, description="bytes on the cluster's disk")
    total_bytes: int | None = None
    files: int = Field(default=0, description="files that are complete and verified")
    total_files: int | None = None
    rate: int = Field(default=0, description="bytes a second")
    eta_s: int | None = None

    @property
    def subject(self) -> str:
        """The model."""
        return self.model

    def difference(self, wanted: Download) -> str:
        """Return its revision if another one is wanted."""
        return "" if self.revision == wanted.revision else f"revision {self.revision}"

    def ended(self, now: datetime, state: BatchJobState, reason: str, kind: str = "", **fields: object) -> Self:
        """Return the next version in a final state, without rate and remaining time."""
        return super().ended(now, state, reason, kind, rate=0, eta_s=None, **fields)


def job_name_of(model: str, identity: str) -> str:
    """Return the Slurm job name of a download; it contains the model, by which a later request finds the job."""
    return f"{DOWNLOAD_JOB_PREFIX}{model.replace('/', '--')}-{identity}"


DiskState = Literal["ready", "partial", "missing", "unknown"]


class DiskModel(FrozenModel):
    """One model on the cluster's disk."""

    state: DiskState = "unknown"
    bytes: int | None = None
    total_bytes: int | None = None
    revision: str | None = Field(default=None, description="commit")
    last_used: datetime | None = Field(default=None, description="when a job last served it")
    shared: str = Field(default="", description="the directory of models_dirs that it is in; empty: in models_dir")

    @property
    def percent(self) -> int | None:
        """How much of it is downloaded, rounded down; None when not known."""
        if self.state in ("ready", "missing"):
            return 100 if self.state == "ready" else 0
        return self.bytes * 100 // self.total_bytes if self.bytes is not None and self.total_bytes else None


class DiskListing(FrozenModel):
    """The models on the cluster's disk at one moment. Models that are not listed are not downloaded."""

    models: Mapping[str, DiskModel] = Field(default_factory=dict)
    free_bytes: int | None = None
    listed_at: datetime

    def of(self, model: str) -> DiskModel:
        """Return that model's entry."""
        return self.models.get(model) or DiskModel(state="missing")
