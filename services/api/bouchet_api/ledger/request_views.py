"""Views of requests: sums by person, model, agent and so on, and over time. Each reads sums, never single requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from bouchet_core.usage import UsageSummary, summary_of

from .intake import ALL
from .periods import DateRange, PeriodLength, first_of
from .tables import COUNTS, DAY_S, QUARTER_S, error_sums, request_sums, requests


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


_SUMS = tuple(sa.func.sum(request_sums.c[name]).label(name) for name in ("requests", *COUNTS))


def summarize_requests(connection: sa.Connection, by: RequestsBy, span: DateRange) -> list[UsageSummary]:
    """Return the sums of the range: over time in its order, else the most tokens first."""
    if by in (RequestsBy.DAY, RequestsBy.WEEK, RequestsBy.MONTH):
        return _over_time(connection, PeriodLength(by), span)
    sums: dict[str, Counter[str]] = {}
    for row in connection.execute(_sums_by(str(by), span)).mappings():
        sums.setdefault(row["name"], Counter()).update(_counts_of(row))
    if by is RequestsBy.KEY:
        for row in connection.execute(_errors(span, error_sums.c.key)).mappings():
            sums.setdefault(row["key"], Counter())[f"error.{row['error']}"] += int(row["requests"])
    return sorted((summary_of(name, counts) for name, counts in sums.items()), key=_busiest_first)


def total_requests(connection: sa.Connection, span: DateRange) -> UsageSummary:
    """Return the sum of everything in the range."""
    counts: Counter[str] = Counter()
    for row in connection.execute(_sums_by(ALL, span)).mappings():
        counts.update(_counts_of(row))
    for row in connection.execute(_errors(span)).mappings():
        counts[f"error.{row['error']}"] += int(row["requests"])
    return summary_of("total", counts)


def last_requests(connection: sa.Connection, limit: int, *, failed: bool = False) -> list[dict[str, Any]]:
    """Return the last requests, newest first; failed: only those with an error."""
    query = sa.select(requests).order_by(requests.c.at.desc()).limit(limit)
    if failed:
        query = query.where(requests.c.error != "")
    return [dict(row) for row in connection.execute(query).mappings()]


def _over_time(connection: sa.Connection, length: PeriodLength, span: DateRange) -> list[UsageSummary]:
    query = (
        sa.select(request_sums.c.start, *_SUMS)
        .where(_is_of(ALL, QUARTER_S), request_sums.c.start >= span.start, request_sums.c.start < span.end)
        .group_by(request_sums.c.start)
    )
    sums: dict[date, Counter[str]] = {first_of(day, length): Counter() for day in span.days()}
    for row in connection.execute(query).mappings():
        day = datetime.fromtimestamp(row["start"], span.zone).date()
        sums[first_of(day, length)].update(_counts_of(row))
    return [summary_of(period_name(day, length), counts) for day, counts in sums.items() if counts]


def period_name(day: date, length: PeriodLength) -> str:
    """Return a day, the Monday of a week, or a month as text."""
    return f"{day:%Y-%m}" if length is PeriodLength.MONTH else day.isoformat()


def _sums_by(by: str, span: DateRange) -> sa.Select[Any]:
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


def _errors(span: DateRange, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    number = sa.func.sum(error_sums.c.requests).label("requests")
    return (
        sa.select(*columns, error_sums.c.error, number)
        .where(error_sums.c.start >= span.start, error_sums.c.start < span.end)
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
