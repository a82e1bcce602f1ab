"""Views of requests: sums by person, model, agent and so on, and over time. Each reads sums, never single requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from bouchet_core.usage import UsageSummary, summary_of

from .intake import ALL, ERRORS_OF
from .periods import DateRange, PeriodLength, TimeRange, first_of
from .tables import COUNTS, DAY_S, HAS_FAILED, QUARTER_S, error_sums, request_sums, requests


class RequestsBy(StrEnum):
    """What a view of requests has a line for."""

    KEY = "key"
    MODEL = "model"
    DEPLOYMENT = "deployment"
    CLASS = "class"
    AGENT = "agent"
    CLIENT = "client"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


# a client may invent a session for each request; those with the fewest tokens are summed as one
MOST_SESSIONS, OTHER_SESSIONS = 500, "other"
UNIX_EPOCH = date(1970, 1, 1)
_SUMS = tuple(sa.func.sum(request_sums.c[name]).label(name) for name in ("requests", *COUNTS))


def summarize_requests(connection: sa.Connection, by: RequestsBy, span: DateRange) -> list[UsageSummary]:
    """Return the sums of the range: over time in its order, else the most tokens first."""
    if by in (RequestsBy.DAY, RequestsBy.WEEK, RequestsBy.MONTH):
        return _over_time(connection, PeriodLength(by), span)
    return summarize_names(connection, str(by), span)


def summarize_names(connection: sa.Connection, by: str, span: TimeRange) -> list[UsageSummary]:
    """Return the sums of each name of that dimension, the most tokens first; the range is of whole quarters."""
    sums: dict[str, Counter[str]] = {}
    for row in connection.execute(_sums_by(by, span)).mappings():
        sums.setdefault(row["name"], Counter()).update(_counts_of(row))
    if by in ERRORS_OF:
        for row in connection.execute(_errors(by, span, error_sums.c.name)).mappings():
            sums.setdefault(row["name"], Counter())[f"error.{row['error']}"] += int(row["requests"])
    return sorted((summary_of(name, counts) for name, counts in sums.items()), key=_busiest_first)


def summarize_sessions(connection: sa.Connection, span: TimeRange) -> list[UsageSummary]:
    """Return the sums of each session that a deployment served; reads single requests, so for about a day at most."""
    of_session = sa.and_(
        requests.c.at >= span.start, requests.c.at < span.end, requests.c.session != "", requests.c.deployment != ""
    )
    failed, made = requests.c.error != "", requests.c.output > 0
    counted = {
        "requests": sa.func.count(),
        "errors": sa.func.count().filter(failed),
        **{name: sa.func.sum(requests.c[name]) for name in ("input", "cached", "output", "continued", "first_ms")},
        "streams": sa.func.count(requests.c.first_ms),
        "made": sa.func.sum(requests.c.output),
        "made_ms": sa.func.sum(sa.case((made, requests.c.generating_ms), else_=0)),
    }
    columns = [column.label(name) for name, column in counted.items()]
    query = sa.select(requests.c.session, *columns).where(of_session).group_by(requests.c.session)
    sums = {row["session"]: Counter(_counts_of(row)) for row in connection.execute(query).mappings()}
    kinds = sa.select(requests.c.session, requests.c.error, sa.func.count().label("requests"))
    for row in connection.execute(
        kinds.where(of_session, HAS_FAILED).group_by(requests.c.session, requests.c.error)
    ).mappings():
        sums[row["session"]][f"error.{row['error']}"] += int(row["requests"])
    busiest = sorted(sums, key=lambda name: (-sums[name]["input"] - sums[name]["output"], name))
    for name in busiest[MOST_SESSIONS:]:
        sums.setdefault(OTHER_SESSIONS, Counter()).update(sums.pop(name))
    return sorted((summary_of(name, counts) for name, counts in sums.items()), key=_busiest_first)


def total_requests(connection: sa.Connection, span: DateRange) -> UsageSummary:
    """Return the sum of everything in the range."""
    counts: Counter[str] = Counter()
    for row in connection.execute(_sums_by(ALL, span)).mappings():
        counts.update(_counts_of(row))
    for row in connection.execute(_errors("key", span)).mappings():
        counts[f"error.{row['error']}"] += int(row["requests"])
    return summary_of("total", counts)


def last_requests(connection: sa.Connection, limit: int, *, failed: bool = False) -> list[dict[str, Any]]:
    """Return the last requests, newest first; failed: only those with an error."""
    query = sa.select(requests).order_by(requests.c.at.desc()).limit(limit)
    if failed:
        query = query.where(HAS_FAILED)
    return [dict(row) for row in connection.execute(query).mappings()]


def _over_time(connection: sa.Connection, length: PeriodLength, span: DateRange) -> list[UsageSummary]:
    """Sum quarters by the days of the zone: within a stretch with one UTC offset, the database can divide them."""
    sums: dict[date, Counter[str]] = {first_of(day, length): Counter() for day in span.days()}
    for start, end, offset in span.stretches():
        # numbers, not parameters: PostgreSQL must see that what it groups by is what it selects
        day = ((request_sums.c.start + sa.literal_column(str(offset))) // sa.literal_column(str(DAY_S))).label("day")
        within = sa.and_(request_sums.c.start >= start, request_sums.c.start < end)
        query = sa.select(day, *_SUMS).where(_is_of(ALL, QUARTER_S), within).group_by(day)
        for row in connection.execute(query).mappings():
            sums[first_of(UNIX_EPOCH + timedelta(days=int(row["day"])), length)].update(_counts_of(row))
    return [summary_of(period_name(day, length), counts) for day, counts in sums.items() if counts]


def period_name(day: date, length: PeriodLength) -> str:
    """Return a day, the Monday of a week, or a month as text."""
    return f"{day:%Y-%m}" if length is PeriodLength.MONTH else day.isoformat()


def _sums_by(by: str, span: TimeRange) -> sa.Select[Any]:
    """Return the query for sums by name: of whole UTC days, and of quarters of an hour at both ends."""
    first_day, last_day = -(-span.start // DAY_S) * DAY_S, span.end // DAY_S * DAY_S
    start = request_sums.c.start
    if first_day >= last_day:
        parts = [sa.and_(_is_of(by, QUARTER_S), start >= span.start, start < span.end)]
    else:
        parts = [
            sa.and_(_is_of(by, QUARTER_S), start >= span.start, start < first_day),
            sa.and_(_is_of(by, DAY_S), start >= first_day, start < last_day),
            sa.and_(_is_of(by, QUARTER_S), start >= last_day, start < span.end),
        ]
    queries = [sa.select(request_sums.c.name, *_SUMS).where(part).group_by(request_sums.c.name) for part in parts]
    return sa.select(sa.union_all(*queries).subquery())


def _is_of(by: str, length: int) -> sa.ColumnElement[bool]:
    return sa.and_(request_sums.c.by == by, request_sums.c.length == length)


def _errors(by: str, span: TimeRange, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    number = sa.func.sum(error_sums.c.requests).label("requests")
    return (
        sa.select(*columns, error_sums.c.error, number)
        .where(error_sums.c.by == by, error_sums.c.start >= span.start, error_sums.c.start < span.end)
        .group_by(*columns, error_sums.c.error)
    )


def _counts_of(row: Mapping[Any, Any]) -> dict[str, int]:
    return {name: int(row[name] or 0) for name in ("requests", *COUNTS)}


def _busiest_first(summary: UsageSummary) -> tuple[int, int, str]:
    return -(summary.input_tokens + summary.output_tokens), -summary.requests, summary.name


def table_of(lines: Iterable[UsageSummary]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return column names and rows of a view, for export."""
    names = (
        *("name", "requests", "input_tokens", "cached_tokens", "output_tokens", "first_token_ms"),
        *("tokens_per_second", "errors"),
    )
    return names, [tuple(getattr(line, name) for name in names) for line in lines]
