"""Views of GPU time: hours and charge by model, type, account and over time, and how they compare with sacct."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from bouchet_core.ledger import SpanKind
from bouchet_core.values import FrozenModel
from pydantic import Field

from .periods import DateRange, PeriodLength, first_of, start_of
from .request_views import period_name
from .tables import jobs, spans


class GpuBy(StrEnum):
    """What a view of GPU time has a line for."""

    MODEL = "model"
    DEPLOYMENT = "deployment"
    GPU_TYPE = "gpu_type"
    PARTITION = "partition"
    ACCOUNT = "account"
    JOB = "job"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class GpuSummary(FrozenModel):
    """GPU time of one line. Hours are of GPUs: two GPUs for an hour are two."""

    name: str
    jobs: int = 0
    gpu_hours: float = Field(default=0.0, description="allocated: from the job's start to its end")
    starting_hours: float = Field(default=0.0, description="until the model was ready")
    serving_hours: float = 0.0
    idle_hours: float = Field(default=0.0, description="ready, without a request for over a minute")
    draining_hours: float = Field(default=0.0, description="finishing its last answers")
    queued_hours: float = Field(default=0.0, description="hours of jobs, not of GPUs, in Slurm's queue")
    charge: float | None = Field(default=None, description="by the site's price table; null where it names no price")
    charge_unit: str = ""

    @property
    def idle_share(self) -> float | None:
        """The fraction of the allocated time that was idle."""
        return self.idle_hours / self.gpu_hours if self.gpu_hours else None


class AccountingSummary(FrozenModel):
    """How the ledger compares with sacct, over jobs that have ended that sacct knows."""

    jobs: int = 0
    asked_at: datetime | None = Field(default=None, description="when sacct was asked last")
    measured_gpu_hours: float = 0.0
    accounted_gpu_hours: float = 0.0
    difference_s: float = Field(default=0.0, description="GPU seconds that the ledger has measured more than sacct")
    largest_difference_s: float = Field(default=0.0, description="of one job")
    largest_job: str = ""


@dataclass
class _Line:
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    jobs: set[str] = field(default_factory=set)
    charge: float = 0.0
    is_priced: bool = False
    unit: str = ""


def summarize_gpu_time(connection: sa.Connection, by: GpuBy, span: DateRange, now: float) -> list[GpuSummary]:
    """Return GPU time within the range: over time in its order, else the most hours first."""
    lines: defaultdict[str, _Line] = defaultdict(_Line)
    pieces_of = _day_pieces(span, PeriodLength(by)) if by in (GpuBy.DAY, GpuBy.WEEK, GpuBy.MONTH) else None
    for row in _rows_within(connection, span, now):
        start, end = max(row["start"], span.start), min(row["until"], span.end)
        named = pieces_of(start, end) if pieces_of else [(str(row[str(by)]), end - start)]
        for name, seconds in named:
            _add(lines[name], row, seconds)
    found = [_summary_of(name, line) for name, line in lines.items()]
    return sorted(found, key=lambda one: one.name) if pieces_of else sorted(found, key=_longest_first)


def total_gpu_time(connection: sa.Connection, span: DateRange, now: float) -> GpuSummary:
    """Return the GPU time of everything in the range."""
    line = _Line()
    for row in _rows_within(connection, span, now):
        _add(line, row, min(row["until"], span.end) - max(row["start"], span.start))
    return _summary_of("total", line)


def compare_with_accounting(connection: sa.Connection, span: DateRange) -> AccountingSummary:
    """Compare the jobs that ended within the range with sacct."""
    found = job_differences(connection, span)
    if not found:
        return AccountingSummary()
    measured, accounted = sum(one.measured_s for one in found), sum(one.accounted_s for one in found)
    largest = max(found, key=lambda one: abs(one.difference_s))
    return AccountingSummary(
        jobs=len(found),
        asked_at=max(one.asked_at for one in found),
        measured_gpu_hours=round(measured / 3600, 3),
        accounted_gpu_hours=round(accounted / 3600, 3),
        difference_s=round(measured - accounted, 1),
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


def job_differences(connection: sa.Connection, span: DateRange) -> list[JobDifference]:
    """Return the jobs that ended within the range that sacct knows, by their end."""
    length = sa.func.sum(spans.c.end - spans.c.start)
    measured = (
        sa.select(spans.c.job, length.label("seconds"))
        .where(spans.c.kind != SpanKind.QUEUED.value, spans.c.end.is_not(None))
        .group_by(spans.c.job)
        .subquery()
    )
    query = (
        sa.select(jobs, measured.c.seconds)
        .outerjoin(measured, measured.c.job == jobs.c.job)
        .where(jobs.c.ended_at >= span.start, jobs.c.ended_at < span.end, jobs.c.accounted_at.is_not(None))
        .order_by(jobs.c.ended_at)
    )
    return [
        JobDifference(
            job=row["job"],
            slurm_id=row["slurm_id"],
            state=row["accounted_state"] or "",
            runs=row["accounted_runs"] or 1,
            measured_s=(row["seconds"] or 0.0) * row["gpus"],
            accounted_s=row["accounted_gpu_s"] or 0.0,
            asked_at=datetime.fromtimestamp(row["accounted_at"], span.zone),
        )
        for row in connection.execute(query).mappings()
    ]


def _rows_within(connection: sa.Connection, span: DateRange, now: float) -> Iterable[Mapping[str, Any]]:
    """Yield the spans that overlap the range with the facts of their jobs, and `until`, when each ended or now."""
    until = sa.func.coalesce(spans.c.end, jobs.c.ended_at, max(now, 0.0)).label("until")
    query = (
        sa.select(
            *(spans.c.kind, spans.c.start, until, jobs.c.job, jobs.c.model, jobs.c.deployment, jobs.c.partition),
            *(jobs.c.account, jobs.c.gpus, jobs.c.gpu_type, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit),
        )
        .join(jobs, jobs.c.job == spans.c.job)
        .where(spans.c.start < min(span.end, now), sa.or_(spans.c.end.is_(None), spans.c.end > span.start))
    )
    return (dict(row) for row in connection.execute(query).mappings() if row["until"] > max(row["start"], span.start))


def _add(line: _Line, row: Mapping[str, Any], seconds: float) -> None:
    line.jobs.add(row["job"])
    if row["kind"] == SpanKind.QUEUED.value:
        line.seconds[row["kind"]] += seconds
        return
    gpu_s = seconds * row["gpus"]
    line.seconds[row["kind"]] += gpu_s
    if row["charge_per_gpu_hour"] is not None:
        line.charge += gpu_s / 3600 * row["charge_per_gpu_hour"]
        line.is_priced, line.unit = True, row["charge_unit"]


def _summary_of(name: str, line: _Line) -> GpuSummary:
    hours = {kind: round(line.seconds[kind] / 3600, 4) for kind in map(str, SpanKind)}
    queued = hours.pop("queued")
    return GpuSummary(
        name=name,
        jobs=len(line.jobs),
        gpu_hours=round(sum(s for kind, s in line.seconds.items() if kind != SpanKind.QUEUED.value) / 3600, 4),
        queued_hours=queued,
        **{f"{kind}_hours": value for kind, value in hours.items()},
        charge=round(line.charge, 2) if line.is_priced else None,
        charge_unit=line.unit,
    )


def _day_pieces(span: DateRange, length: PeriodLength) -> Callable[[float, float], list[tuple[str, float]]]:
    """Return a function that cuts a stretch of time at the midnights of the zone: names of periods and seconds."""
    days = list(span.days())
    starts = [start_of(day, span.zone) for day in (*days, days[-1] + timedelta(days=1))]
    names = [period_name(first_of(day, length), length) for day in days]

    def cut(start: float, end: float) -> list[tuple[str, float]]:
        first = (datetime.fromtimestamp(start, span.zone).date() - days[0]).days
        pieces = []
        for index in range(max(0, first), len(days)):
            if starts[index] >= end:
                break
            seconds = min(end, starts[index + 1]) - max(start, starts[index])
            pieces += [(names[index], seconds)] if seconds > 0 else []
        return pieces

    return cut


def _longest_first(summary: GpuSummary) -> tuple[float, str]:
    return -summary.gpu_hours, summary.name


def table_of_gpu_time(lines: Sequence[GpuSummary]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return column names and rows of a view, for export."""
    names = tuple(GpuSummary.model_fields)
    return names, [tuple(getattr(line, name) for name in names) for line in lines]
