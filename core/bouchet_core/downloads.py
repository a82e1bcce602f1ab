"""The nouns of model downloads, and of which models lie on the cluster. All values are frozen. Sizes are bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .models import Frozen

ModelId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=140)
]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
JOB_PREFIX = "bouchet-download-"


class DownloadState(StrEnum):
    """Where a download is. The last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DownloadRequest(Frozen):
    """What a person asked for."""

    model: str = Field(min_length=1, max_length=200, description="name of the catalog, or a full id `org/name`")
    revision: Revision | None = Field(default=None, description="branch, tag or commit; the newest by default")


class Download(Frozen):
    """The record of one download. `version` counts its changes; a save must know the version it replaces."""

    id: str
    model: ModelId
    revision: Revision = "main"
    state: DownloadState = DownloadState.QUEUED
    reason: str = Field(default="", description="why it waits, what it does, or how it ended: a sentence")
    kind: str = Field(default="", description="one word for programs where it failed")
    commit: str | None = Field(default=None, description="the commit that the revision named when it began")
    bytes: int = Field(default=0, description="bytes on the cluster's disk")
    total_bytes: int | None = None
    files: int = Field(default=0, description="files that came and were found right")
    total_files: int | None = None
    rate: int = Field(default=0, description="bytes a second")
    eta_s: int | None = None
    job_name: str = Field(default="", description="Slurm's job name; its end is this record's id")
    slurm_id: int | None = None
    asked_at: datetime | None = Field(default=None, description="when sbatch was called last")
    log: str | None = Field(default=None, description="path of the job's log on the cluster")
    stop_requested_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    version: int = 0

    @property
    def is_live(self) -> bool:
        """Whether anything may still come of it."""
        return self.state in (DownloadState.QUEUED, DownloadState.RUNNING)

    def changed(self, now: datetime, **fields: object) -> Download:
        """The next version with these fields; the very same value when nothing changes."""
        new = self.model_copy(update=fields)
        return self if new == self else new.model_copy(update={"updated_at": now, "version": self.version + 1})

    def ended(self, now: datetime, state: DownloadState, reason: str, kind: str = "") -> Download:
        """The next version, over."""
        return self.changed(now, state=state, reason=reason, kind=kind, rate=0, eta_s=None)


class DownloadEvent(Frozen):
    """One change of one download. `id` is the event stream's."""

    id: str
    download: Download


def job_name_of(model: str, identity: str) -> str:
    """A name that says which model it fetches, so that a job is found again by whoever wants the same model."""
    return f"{JOB_PREFIX}{model.replace('/', '--')}-{identity}"


def fetches(job_name: str, model: str) -> bool:
    """Whether a job of that name fetches this model."""
    return re.fullmatch(re.escape(job_name_of(model, "")) + r"[a-z2-7]{12}", job_name) is not None


DiskState = Literal["ready", "partial", "missing", "unknown"]


class OnDisk(Frozen):
    """One model on the cluster's disk."""

    state: DiskState = "unknown"
    bytes: int | None = None
    total_bytes: int | None = None
    revision: str | None = Field(default=None, description="commit")
    last_used: datetime | None = Field(default=None, description="when a job last served it")

    @property
    def percent(self) -> int | None:
        """How much of it is there, rounded down; None when not known."""
        if self.state in ("ready", "missing"):
            return 100 if self.state == "ready" else 0
        return self.bytes * 100 // self.total_bytes if self.bytes is not None and self.total_bytes else None


class DiskLook(Frozen):
    """What one look at the cluster's disk found. Models not named here are not there."""

    models: Mapping[str, OnDisk] = Field(default_factory=dict)
    free_bytes: int | None = None
    looked_at: datetime

    def of(self, model: str) -> OnDisk:
        """That model's row."""
        return self.models.get(model) or OnDisk(state="missing")
