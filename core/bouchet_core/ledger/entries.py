"""Entries about jobs. Each may be appended again: the ledger keeps the newest of a job, and one span for each start.

Entries about requests are `bouchet_core.usage.UsageRecord`. Neither contains a prompt, an answer or a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from bouchet_core.values import FrozenModel


class SpanKind(StrEnum):
    """What a job did for a while. In all but the first it had its GPUs allocated."""

    QUEUED = "queued"
    STARTING = "starting"
    SERVING = "serving"
    IDLE = "idle"
    DRAINING = "draining"


ALLOCATED = (SpanKind.STARTING, SpanKind.SERVING, SpanKind.IDLE, SpanKind.DRAINING)


class _Entry(FrozenModel):
    """A part of an entry; what a newer version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class JobSpan(_Entry):
    """A stretch of a job's life. `end` is None while it lasts."""

    kind: SpanKind
    start: datetime
    end: datetime | None = None

    def seconds(self, now: datetime) -> float:
        """Return its length, until now if it lasts."""
        return max(0.0, ((self.end or now) - self.start).total_seconds())


class JobEntry(_Entry):
    """A job as it is now, and those of its spans that have begun, changed or ended since its last entry."""

    type: Literal["job"] = "job"
    job: str = Field(description="Slurm's job name, which is unique")
    version: int = Field(default=0, description="grows with each entry of the job: the highest is the newest")
    deployment: str
    model: str
    alias: str = ""
    slurm_id: int | None = None
    partition: str = ""
    account: str = ""
    gpus: int = 0
    gpu_type: str = ""
    nodes: int = 1
    charge_per_gpu_hour: float | None = Field(default=None, description="of the site; None where it names none")
    charge_unit: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = Field(default=None, description="when it first had its GPUs")
    ended_at: datetime | None = None
    ending: str = ""
    spans: tuple[JobSpan, ...] = ()


# of a job that Slurm requeues again and again, the last are kept
MOST_PAUSES = 200
# so that a clock that is wrong by hours makes no date that does not exist
_Moment = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC))]


class Pause(_Entry):
    """The time between two runs of a job, by the cluster's clock."""

    start: _Moment
    end: _Moment

    def shifted(self, by: timedelta) -> Pause:
        """Return it that much later."""
        return Pause(start=self.start + by, end=self.end + by)


class AccountingEntry(_Entry):
    """What sacct says of a job, all its runs together where Slurm has requeued it."""

    type: Literal["accounting"] = "accounting"
    job: str
    slurm_id: int
    asked_at: datetime
    state: str = ""
    runs: int = 1
    allocated_s: float = Field(description="seconds from start to end, of all runs")
    gpu_s: float = Field(description="the same times the GPUs that were allocated")
    pauses: tuple[Pause, ...] = Field(
        default=(), max_length=MOST_PAUSES, description="between its runs, where Slurm has requeued it"
    )
    ended: bool = True


LedgerEntry = Annotated[JobEntry | AccountingEntry, Field(discriminator="type")]
_ENTRY: TypeAdapter[JobEntry | AccountingEntry] = TypeAdapter(LedgerEntry)


def parse_entry(fields: Mapping[str, str]) -> JobEntry | AccountingEntry | None:
    """Return the entry of a stream's fields, None for one that this version cannot read."""
    try:
        return _ENTRY.validate_json(fields.get("body", ""))
    except ValidationError:
        return None
