"""How the ledger's GPU time compares with sacct: in all, and job by job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from bouchet_core.values import FrozenModel
from pydantic import Field

from .periods import DateRange
from .tables import jobs

# lines of a view of single jobs
MOST_DIFFERENCES = 200


class AccountingSummary(FrozenModel):
    """How the ledger compares with sacct, over jobs that have ended that sacct knows."""

    jobs: int = 0
    asked_at: datetime | None = Field(default=None, description="when sacct was asked last")
    measured_gpu_hours: float = 0.0
    accounted_gpu_hours: float = 0.0
    difference_s: float = Field(default=0.0, description="GPU seconds that the ledger has measured more than sacct")
    largest_difference_s: float = Field(default=0.0, description="of one job")
    largest_job: str = ""


def compare_with_accounting(connection: sa.Connection, span: DateRange) -> AccountingSummary:
    """Compare the jobs that ended within the range with sacct."""
    compared = _compared_jobs(span).subquery()
    total = connection.execute(
        sa.select(
            *(sa.func.count().label("jobs"), sa.func.max(compared.c.accounted_at).label("asked_at")),
            *(sa.func.sum(compared.c[name]).label(name) for name in ("measured_s", "accounted_s")),
        )
    ).one()
    if not total.jobs:
        return AccountingSummary()
    [largest] = job_differences(connection, span, 1)
    return AccountingSummary(
        jobs=total.jobs,
        asked_at=datetime.fromtimestamp(total.asked_at, span.zone),
        measured_gpu_hours=round(total.measured_s / 3600, 3),
        accounted_gpu_hours=round(total.accounted_s / 3600, 3),
        difference_s=round(total.measured_s - total.accounted_s, 1),
        largest_difference_s=round(largest.difference_s, 1),
        largest_job=largest.job,
    )


class JobDifference(FrozenModel):
    """One job: GPU seconds as measured here, and as sacct has them."""

    job: str
    slurm_id: int | None
    state: str = Field(description="Slurm's, as sacct printed it")
    runs: int = Field(description="how often Slurm has started it")
    measured_s: float
    accounted_s: float
    asked_at: datetime

    @property
    def difference_s(self) -> float:
        """What the ledger has measured more."""
        return self.measured_s - self.accounted_s


def job_differences(connection: sa.Connection, span: DateRange, most: int = MOST_DIFFERENCES) -> list[JobDifference]:
    """Return the jobs that ended within the range that sacct knows, those that differ the most first."""
    compared = _compared_jobs(span).subquery()
    by_size = sa.select(compared).order_by(_size_of(compared).desc(), compared.c.job).limit(most)
    return [
        JobDifference(
            job=row.job,
            slurm_id=row.slurm_id,
            state=row.accounted_state or "",
            runs=row.accounted_runs or 1,
            measured_s=row.measured_s,
            accounted_s=row.accounted_s,
            asked_at=datetime.fromtimestamp(row.accounted_at, span.zone),
        )
        for row in connection.execute(by_size)
    ]


def _size_of(compared: sa.Subquery) -> sa.ColumnElement[Any]:
    return sa.func.abs(compared.c.measured_s - compared.c.accounted_s)


def _compared_jobs(span: DateRange) -> sa.Select[Any]:
    """Return the query for jobs that ended within the range that sacct knows, with GPU seconds as both have them."""
    return sa.select(
        *(jobs.c[name] for name in ("job", "slurm_id", "accounted_state", "accounted_runs", "accounted_at")),
        ((jobs.c.starting_s + jobs.c.serving_s + jobs.c.idle_s + jobs.c.draining_s) * jobs.c.gpus).label("measured_s"),
        sa.func.coalesce(jobs.c.accounted_gpu_s, 0.0).label("accounted_s"),
    ).where(jobs.c.ended_at >= span.start, jobs.c.ended_at < span.end, jobs.c.accounted_at.is_not(None))
