"""Views of GPU time: hours and charge by model, type, account and over time, and how they compare with sacct."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from bouchet_core.ledger import SpanKind
from bouchet_core.values import FrozenModel
from pydantic import Field

from .periods import DateRange, PeriodLength, first_of, start_of
from .request_views import period_name
from .tables import KINDS, jobs, spans

# of one query that names jobs
JOBS_AT_ONCE = 500


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
    jobs: int = 0
    charge: float = 0.0
    is_priced: bool = False
    unit: str = ""

    def add(self, kind: str, price: float | None, unit: str, job_s: float, gpu_s: float) -> None:
        """Add time of one kind: of jobs, and of their GPUs."""
        if kind == SpanKind.QUEUED.value:
            self.seconds[kind] += job_s
            return
        self.seconds[kind] += gpu_s
        if price is not None:
            self.charge += gpu_s / 3600 * price
            self.is_priced, self.unit = True, unit

    def add_line(self, other: _Line) -> None:
        """Add all of another line, whose jobs are others."""
        for kind, seconds in other.seconds.items():
            self.seconds[kind] += seconds
        self.jobs += other.jobs
        self.charge += other.charge
        if other.is_priced:
            self.is_priced, self.unit = True, other.unit


def summarize_gpu_time(connection: sa.Connection, by: GpuBy, span: DateRange, now: float) -> list[GpuSummary]:
    """Return GPU time within the range: over time in its order, else the most hours first."""
    if by in (GpuBy.DAY, GpuBy.WEEK, GpuBy.MONTH):
        return _over_time(connection, PeriodLength(by), span, now)
    lines = _sum_by(connection, jobs.c[str(by)], span, now)
    return sorted((_summary_of(str(name), line) for name, line in lines.items()), key=_longest_first)


def total_gpu_time(connection: sa.Connection, span: DateRange, now: float) -> GpuSummary:
    """Return the GPU time of everything in the range."""
    total = _Line()
    for line in _sum_by(connection, jobs.c.gpu_type, span, now).values():
        total.add_line(line)
    return _summary_of("total", total)


def compare_with_accounting(connection: sa.Connection, span: DateRange) -> AccountingSummary:
    """Compare the jobs that ended within the range with sacct."""
    compared = _compared_jobs(span).subquery()
    difference = (compared.c.measured_s - compared.c.accounted_s).label("difference_s")
    total = connection.execute(
        sa.select(
            *(sa.func.count().label("jobs"), sa.func.max(compared.c.accounted_at).label("asked_at")),
            *(sa.func.sum(compared.c[name]).label(name) for name in ("measured_s", "accounted_s")),
        )
    ).one()
    if not total.jobs:
        return AccountingSummary()
    by_size = sa.select(compared.c.job, difference).order_by(sa.func.abs(difference).desc(), compared.c.job)
    largest = connection.execute(by_size.limit(1)).one()
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


def job_differences(connection: sa.Connection, span: DateRange) -> list[JobDifference]:
    """Return the jobs that ended within the range that sacct knows, by their end."""
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
        for row in connection.execute(_compared_jobs(span).order_by(jobs.c.ended_at))
    ]


def _compared_jobs(span: DateRange) -> sa.Select[Any]:
    """Return the query for jobs that ended within the range that sacct knows, with GPU seconds as both have them."""
    return sa.select(
        *(jobs.c[name] for name in ("job", "slurm_id", "accounted_state", "accounted_runs", "accounted_at")),
        ((jobs.c.starting_s + jobs.c.serving_s + jobs.c.idle_s + jobs.c.draining_s) * jobs.c.gpus).label("measured_s"),
        sa.func.coalesce(jobs.c.accounted_gpu_s, 0.0).label("accounted_s"),
    ).where(jobs.c.ended_at >= span.start, jobs.c.ended_at < span.end, jobs.c.accounted_at.is_not(None))


def _sum_by(connection: sa.Connection, name: sa.ColumnElement[Any], span: DateRange, now: float) -> dict[str, _Line]:
    """Return the sums of the range for each value of that column of jobs.

    Jobs that are wholly in it are added by the database; the spans of those at its ends, and of live ones, are cut.
    """
    lines: defaultdict[str, _Line] = defaultdict(_Line)
    kinds = [jobs.c[f"{kind}_s"] for kind in KINDS]
    columns = (name, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit)
    whole = sa.select(
        *(*columns, sa.func.count(), *(sa.func.sum(seconds) for seconds in kinds)),
        *(sa.func.sum(seconds * jobs.c.gpus) for seconds in kinds),
    ).where(_is_whole(span))
    for named, price, unit, number, *sums in connection.execute(whole.group_by(*columns)):
        lines[named].jobs += number
        for kind, job_s, gpu_s in zip(KINDS, sums[: len(KINDS)], sums[len(KINDS) :], strict=True):
            lines[named].add(kind, price, unit, job_s, gpu_s)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for named, *piece in connection.execute(_pieces(span, now, name).where(sa.not_(_is_whole(span)))):
        job, gpus, price, unit, kind, begun, ended = piece
        seconds = min(ended, span.end) - max(begun, span.start)
        if seconds > 0:
            lines[named].add(kind, price, unit, seconds, seconds * gpus)
            seen[named].add(job)
    for named, found in seen.items():
        lines[named].jobs += len(found)
    return lines


def _over_time(connection: sa.Connection, length: PeriodLength, span: DateRange, now: float) -> list[GpuSummary]:
    """Add jobs by the period that they are in; cut the spans of those that are in several, and of live ones."""
    firsts = {first_of(day, length): day for day in reversed(list(span.days()))}
    names = [period_name(first, length) for first in reversed(firsts)]
    starts = [start_of(day, span.zone) for day in reversed(firsts.values())] + [span.end]
    lines: defaultdict[str, _Line] = defaultdict(_Line)
    kinds = [jobs.c[f"{kind}_s"] for kind in KINDS]
    columns = (jobs.c.job, jobs.c.gpus, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit)
    whole = sa.select(jobs.c.first_span, jobs.c.last_span, *columns, *kinds).where(_is_whole(span))
    crossing = []
    for first, last, job, gpus, price, unit, *sums in connection.execute(whole):
        index = bisect_right(starts, first) - 1
        if last > starts[index + 1]:
            crossing.append(job)
            continue
        line = lines[names[index]]
        line.jobs += 1
        for kind, seconds in zip(KINDS, sums, strict=True):
            if seconds:
                line.add(kind, price, unit, seconds, seconds * gpus)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for job, gpus, price, unit, kind, begun, ended in _pieces_of(connection, span, now, crossing):
        start, end = max(begun, span.start), min(ended, span.end)
        index = bisect_right(starts, start) - 1
        while start < end:
            cut = min(end, starts[index + 1])
            lines[names[index]].add(kind, price, unit, cut - start, (cut - start) * gpus)
            seen[names[index]].add(job)
            start, index = cut, index + 1
    for name, found in seen.items():
        lines[name].jobs += len(found)
    return [_summary_of(name, lines[name]) for name in sorted(lines)]


def _is_whole(span: DateRange) -> sa.ColumnElement[bool]:
    """Return whether all spans of a job are within the range."""
    # never null, so that it can be negated
    last_span = sa.func.coalesce(jobs.c.last_span, float(span.end) + 1)
    return sa.and_(jobs.c.first_span >= span.start, last_span <= span.end)


def _pieces(span: DateRange, now: float, *names: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return the query for spans that overlap the range; one that lasts ends now, or with its job."""
    until = sa.func.coalesce(spans.c.end, jobs.c.ended_at, max(now, 0.0))
    columns = (jobs.c.job, jobs.c.gpus, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit, spans.c.kind, spans.c.start)
    return (
        sa.select(*names, *columns, until)
        .join(spans, spans.c.job == jobs.c.job)
        .where(
            jobs.c.first_span < min(span.end, now),
            sa.or_(jobs.c.last_span.is_(None), jobs.c.last_span > span.start),
            spans.c.start < min(span.end, now),
            sa.or_(spans.c.end.is_(None), spans.c.end > span.start),
        )
    )


def _pieces_of(
    connection: sa.Connection, span: DateRange, now: float, crossing: Sequence[str]
) -> Iterator[Sequence[Any]]:
    """Yield the spans of jobs that are not wholly in the range, and of these others."""
    query = _pieces(span, now)
    yield from connection.execute(query.where(sa.not_(_is_whole(span))))
    for number in range(0, len(crossing), JOBS_AT_ONCE):
        yield from connection.execute(query.where(jobs.c.job.in_(crossing[number : number + JOBS_AT_ONCE])))


def _summary_of(name: str, line: _Line) -> GpuSummary:
    hours = {kind: round(line.seconds[kind] / 3600, 4) for kind in map(str, SpanKind)}
    queued = hours.pop("queued")
    return GpuSummary(
        name=name,
        jobs=line.jobs,
        gpu_hours=round(sum(s for kind, s in line.seconds.items() if kind != SpanKind.QUEUED.value) / 3600, 4),
        queued_hours=queued,
        **{f"{kind}_hours": value for kind, value in hours.items()},
        charge=round(line.charge, 2) if line.is_priced else None,
        charge_unit=line.unit,
    )


def _longest_first(summary: GpuSummary) -> tuple[float, str]:
    return -summary.gpu_hours, summary.name


def table_of_gpu_time(lines: Sequence[GpuSummary]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return column names and rows of a view, for export."""
    names = tuple(GpuSummary.model_fields)
    return names, [tuple(getattr(line, name) for name in names) for line in lines]
