"""Views of GPU time: hours and charge by model, type, account and job, and over time.

The database adds the jobs that are wholly in the range, or in one of its periods; only the spans of those that cross
an end, and of live ones, are read and cut. So a view costs what it shows, not what the ledger has.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from bouchet_core.ledger import SpanKind
from bouchet_core.values import FrozenModel
from pydantic import Field

from .periods import DateRange, PeriodLength, first_of, start_of
from .request_views import period_name
from .tables import KINDS, jobs, spans

# lines of a view by job: those with the most hours; the others are summed as one
MOST_JOBS, OTHER_JOBS = 500, "other"
QUEUED = SpanKind.QUEUED.value
# seconds of each kind that a job's row has: of the job, and of its GPUs
_JOB_S = tuple(jobs.c[f"{kind}_s"] for kind in KINDS)
_GPU_S = tuple(seconds * jobs.c.gpus for seconds in _JOB_S)
# what is needed of a span, and of its job, beside its end
_PIECE = (jobs.c.job, jobs.c.gpus, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit, spans.c.kind, spans.c.start)


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


@dataclass(frozen=True)
class GpuTable:
    """A view: its lines, and what they come to."""

    lines: list[GpuSummary]
    total: GpuSummary


@dataclass
class _Line:
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    jobs: int = 0
    charge: float = 0.0
    is_priced: bool = False
    unit: str = ""

    def add(self, kind: str, price: float | None, unit: str, job_s: float, gpu_s: float) -> None:
        """Add time of one kind: of jobs, and of their GPUs."""
        if kind == QUEUED:
            self.seconds[kind] += job_s
            return
        self.seconds[kind] += gpu_s
        if price is not None:
            self.charge += gpu_s / 3600 * price
            self.is_priced, self.unit = True, unit

    def add_sums(self, price: float | None, unit: str, number: int, sums: Sequence[float]) -> None:
        """Add whole jobs: how many, and their seconds of each kind, then those of their GPUs."""
        self.jobs += number
        for kind, job_s, gpu_s in zip(KINDS, sums[: len(KINDS)], sums[len(KINDS) :], strict=True):
            self.add(kind, price, unit, job_s, gpu_s)

    def add_line(self, other: _Line, times: int = 1) -> None:
        """Add all of another line, whose jobs are others; times: -1 to take it away."""
        for kind, seconds in other.seconds.items():
            self.seconds[kind] += times * seconds
        self.jobs += times * other.jobs
        self.charge += times * other.charge
        if other.is_priced:
            self.is_priced, self.unit = True, other.unit


def summarize_gpu_time(
    connection: sa.Connection, by: GpuBy, span: DateRange, now: float, most_jobs: int | None = MOST_JOBS
) -> GpuTable:
    """Return GPU time within the range: over time in its order, else the most hours first.

    most_jobs: how many lines a view by job has, None for all.
    """
    if by in (GpuBy.DAY, GpuBy.WEEK, GpuBy.MONTH):
        return _over_time(connection, PeriodLength(by), span, now)
    lines = _cut_jobs(connection, jobs.c[str(by)], span, now)
    total = _Line()
    if by is GpuBy.JOB:
        for line in lines.values():
            total.add_line(line)
        for _, *sums in connection.execute(_sums_of(jobs.c.gpu_type, _is_whole(span))):
            total.add_sums(*_split(sums))
        for name, *sums in connection.execute(_sums_of_jobs(span, most_jobs)):
            lines[name].add_sums(*_split(sums))
    else:
        for name, *sums in connection.execute(_sums_of(jobs.c[str(by)], _is_whole(span))):
            lines[name].add_sums(*_split(sums))
        for line in lines.values():
            total.add_line(line)
    summed = _sorted(lines)
    return GpuTable(
        _limited(summed, lines, total, most_jobs) if by is GpuBy.JOB else summed, _summary_of("total", total)
    )


def total_gpu_time(connection: sa.Connection, span: DateRange, now: float) -> GpuSummary:
    """Return the GPU time of everything in the range."""
    return summarize_gpu_time(connection, GpuBy.GPU_TYPE, span, now).total


def _limited(summed: list[GpuSummary], lines: dict[str, _Line], total: _Line, most: int | None) -> list[GpuSummary]:
    """Return the first lines, and one for all other jobs."""
    shown = summed[:most]
    others = _Line()
    others.add_line(total)
    for summary in shown:
        others.add_line(lines[summary.name], -1)
    return [*shown, _summary_of(OTHER_JOBS, others)] if others.jobs else shown


def _sums_of(name: sa.ColumnElement[Any], which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the query that adds jobs, for each value of that column."""
    groups = name, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit
    sums = (sa.func.sum(one) for one in (*_JOB_S, *_GPU_S))
    return sa.select(*groups, sa.func.count(), *sums).where(which).group_by(*groups)


def _sums_of_jobs(span: DateRange, most: int | None) -> sa.Select[Any]:
    """Return the query for single jobs that are wholly in the range, those with the most GPU time first."""
    one = jobs.c.job, jobs.c.charge_per_gpu_hour, jobs.c.charge_unit, sa.literal(1)
    most_first = sum(_GPU_S[1:], start=_GPU_S[0]) - _GPU_S[KINDS.index(QUEUED)]
    return sa.select(*one, *_JOB_S, *_GPU_S).where(_is_whole(span)).order_by(most_first.desc(), jobs.c.job).limit(most)


def _split(row: Sequence[Any]) -> tuple[float | None, str, int, Sequence[float]]:
    price, unit, number, *sums = row
    return price, unit, number, sums


def _cut_jobs(
    connection: sa.Connection, name: sa.ColumnElement[Any], span: DateRange, now: float
) -> defaultdict[str, _Line]:
    """Return the lines of the jobs that are not wholly in the range: what of their spans is."""
    lines: defaultdict[str, _Line] = defaultdict(_Line)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for named, *piece in connection.execute(_pieces(span, now, name)):
        job, gpus, price, unit, kind, begun, ended = piece
        seconds = min(ended, span.end) - max(begun, span.start)
        if seconds > 0:
            lines[named].add(kind, price, unit, seconds, seconds * gpus)
            seen[named].add(job)
    for named, found in seen.items():
        lines[named].jobs += len(found)
    return lines


def _over_time(connection: sa.Connection, length: PeriodLength, span: DateRange, now: float) -> GpuTable:
    """Let the database add the jobs of each period; cut the spans of those that are in several, and of live ones."""
    firsts = {first_of(day, length): day for day in reversed(list(span.days()))}
    names = [period_name(first, length) for first in reversed(firsts)]
    starts = [start_of(day, span.zone) for day in reversed(firsts.values())] + [span.end]
    lines: defaultdict[str, _Line] = defaultdict(_Line)
    periods, total = _periods(starts).c, _Line()
    number, begin, end = periods.column1, periods.column2, periods.column3
    # without the range's own ends: a database is to look the jobs of each period up, not the periods of each job
    began_in = sa.and_(jobs.c.first_span >= begin, jobs.c.first_span < end)
    within = sa.and_(began_in, jobs.c.last_span <= end)
    for index, *sums in connection.execute(_sums_of(number, within)):
        lines[names[index]].add_sums(*_split(sums))
    is_crossing = sa.and_(began_in, jobs.c.last_span > end, jobs.c.last_span <= span.end)
    pieces = [*connection.execute(_pieces(span, now)).all(), *_pieces_of(connection, is_crossing)]
    total.jobs = sum(line.jobs for line in lines.values()) + _cut(pieces, lines, names, starts)
    summed = [_summary_of(name, lines[name]) for name in sorted(lines)]
    jobs_in_all = total.jobs
    for line in lines.values():
        total.add_line(line)
    total.jobs = jobs_in_all
    return GpuTable(summed, _summary_of("total", total))


def _pieces_of(connection: sa.Connection, is_meant: sa.ColumnElement[bool]) -> Sequence[Sequence[Any]]:
    """Return all spans of these ended jobs, as _pieces has them.

    PostgreSQL packs those of a job into one text: its driver is written in Python, and slow with many values.
    """
    if connection.dialect.name == "sqlite":
        query = sa.select(*_PIECE, spans.c.end).join(spans, spans.c.job == jobs.c.job).where(is_meant)
        return connection.execute(query).all()
    of_job, of_span = _PIECE[:4], (*_PIECE[4:], spans.c.end)
    packed = sa.cast(sa.func.json_agg(sa.func.json_build_array(*of_span)), sa.Text)
    grouped = sa.select(*of_job, packed).join(spans, spans.c.job == jobs.c.job).where(is_meant).group_by(jobs.c.job)
    return [(*facts, *piece) for *facts, text in connection.execute(grouped) for piece in json.loads(text)]


def _cut(pieces: Iterable[Sequence[Any]], lines: dict[str, _Line], names: list[str], starts: list[int]) -> int:
    """Add spans to the periods that they are in; return of how many jobs they are."""
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for job, gpus, price, unit, kind, begun, ended in pieces:
        start, end = max(begun, starts[0]), min(ended, starts[-1])
        index = bisect_right(starts, start) - 1
        while start < end:
            cut = min(end, starts[index + 1])
            lines[names[index]].add(kind, price, unit, cut - start, (cut - start) * gpus)
            seen[names[index]].add(job)
            start, index = cut, index + 1
    for name, found in seen.items():
        lines[name].jobs += len(found)
    return len(set().union(*seen.values()))


def _periods(starts: Sequence[int]) -> sa.CTE:
    """Return periods as a table of the query.

    Numbers, not parameters: a database takes only so many of those, and a year of days takes SQLAlchemy 100 ms.
    """
    rows = ", ".join(f"({number}, {start}, {end})" for number, (start, end) in enumerate(pairwise(starts)))
    # both kinds of database name the columns of values so
    columns = (sa.column(name, sa.BigInteger) for name in ("column1", "column2", "column3"))
    return sa.text(f"VALUES {rows}").columns(*columns).cte("periods")


def _is_whole(span: DateRange) -> sa.ColumnElement[bool]:
    """Return whether all spans of a job are within the range."""
    # never null, so that it can be negated
    last_span = sa.func.coalesce(jobs.c.last_span, float(span.end) + 1)
    return sa.and_(jobs.c.first_span >= span.start, last_span <= span.end)


def _pieces(span: DateRange, now: float, *names: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return the query for spans that overlap the range, of jobs that are not wholly in it.

    A span that lasts ends now, or with its job.
    """
    until = sa.func.coalesce(spans.c.end, jobs.c.ended_at, max(now, 0.0))
    return (
        sa.select(*names, *_PIECE, until)
        .join(spans, spans.c.job == jobs.c.job)
        .where(
            sa.not_(_is_whole(span)),
            jobs.c.first_span < min(span.end, now),
            sa.or_(jobs.c.last_span.is_(None), jobs.c.last_span > span.start),
            spans.c.start < min(span.end, now),
            sa.or_(spans.c.end.is_(None), spans.c.end > span.start),
        )
    )


def _summary_of(name: str, line: _Line) -> GpuSummary:
    hours = {kind: round(line.seconds[kind] / 3600, 4) for kind in map(str, SpanKind)}
    queued = hours.pop("queued")
    return GpuSummary(
        name=name,
        jobs=line.jobs,
        gpu_hours=round(sum(s for kind, s in line.seconds.items() if kind != QUEUED) / 3600, 4),
        queued_hours=queued,
        **{f"{kind}_hours": value for kind, value in hours.items()},
        charge=round(line.charge, 2) if line.is_priced else None,
        charge_unit=line.unit,
    )


def _sorted(lines: dict[str, _Line]) -> list[GpuSummary]:
    return sorted((_summary_of(str(name), line) for name, line in lines.items()), key=_longest_first)


def _longest_first(summary: GpuSummary) -> tuple[float, str]:
    return -summary.gpu_hours, summary.name


def table_of_gpu_time(lines: Sequence[GpuSummary]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return column names and rows of a view, for export."""
    names = tuple(GpuSummary.model_fields)
    return names, [tuple(getattr(line, name) for name in names) for line in lines]
