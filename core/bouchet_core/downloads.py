"""The nouns of model downloads, and of which models lie on the cluster. All values are frozen. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from .batch_jobs import BatchJob, BatchJobState, is_batch_job_name
from .values import FrozenModel, HubId

ModelId = Annotated[HubId, StringConstraints(max_length=140)]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
JOB_PREFIX = "bouchet-download-"


class DownloadRequest(FrozenModel):
    """What a person asked for."""

    model: str = Field(min_length=1, max_length=200, description="name of the catalog, or a full id `org/name`")
    revision: Revision | None = Field(default=None, description="branch, tag or commit; the newest by default")


class Download(BatchJob):
    """The record of one download."""

    model: ModelId
    revision: Revision = "main"
    commit: str | None = Field(default=None, description="the commit that the revision named when it began")
    bytes: int = Field(default=0, description="bytes on the cluster's disk")
    total_bytes: int | None = None
    files: int = Field(default=0, description="files that came and were found right")
    total_files: int | None = None
    rate: int = Field(default=0, description="bytes a second")
    eta_s: int | None = None

    @property
    def subject(self) -> str:
        """One download a model."""
        return self.model

    def ended(self, now: datetime, state: BatchJobState, reason: str, kind: str = "", **fields: object) -> Self:
        """The next version, over."""
        return super().ended(now, state, reason, kind, rate=0, eta_s=None, **fields)


def job_name_of(model: str, identity: str) -> str:
    """A name that says which model it fetches, so that a job is found again by whoever wants the same model."""
    return f"{JOB_PREFIX}{model.replace('/', '--')}-{identity}"


def fetches(job_name: str, model: str) -> bool:
    """Whether a job of that name fetches this model."""
    return is_batch_job_name(job_name, job_name_of(model, ""))


DiskState = Literal["ready", "partial", "missing", "unknown"]


class DiskModel(FrozenModel):
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


class DiskListing(FrozenModel):
    """What one look at the cluster's disk found. Models not named here are not there."""

    models: Mapping[str, DiskModel] = Field(default_factory=dict)
    free_bytes: int | None = None
    looked_at: datetime

    def of(self, model: str) -> DiskModel:
        """That model's row."""
        return self.models.get(model) or DiskModel(state="missing")
