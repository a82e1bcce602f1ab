"""Tables as CSV and JSON lines, a page of rows at a time.

Each page is a query of its own: a reader that pauses holds no connection, and no old state of the database. Rows are
neither lost nor doubled by that, as those of a page come after the last one of the page before.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from .database import LedgerDatabase
from .periods import DateRange
from .tables import jobs, requests, spans

# of one query, and of one piece of the response
ROWS_AT_ONCE = 1000
# a spreadsheet takes a cell that begins so for a formula, also in the wide forms of East Asian keyboards
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# where decimals have a comma, a spreadsheet begins a cell after a semicolon as well, and after a tab or a line
FORMULA_WITHIN = re.compile(r"(?<=[;\t\r\n])(?=[ \"]*[=+\-@＝＋－＠])")
TIMES = frozenset({"at", "submitted_at", "started_at", "ended_at", "accounted_at", "start", "end"})


class ExportFormat(StrEnum):
    """How a table is written."""

    CSV = "csv"
    JSON_LINES = "jsonl"


class ExportTable(StrEnum):
    """What can be exported: one row a request, one a job, one a stretch of a job's life."""

    REQUESTS = "requests"
    JOBS = "jobs"
    SPANS = "spans"


# of rows of one moment
KEYS: Mapping[ExportTable, tuple[sa.Column[Any], ...]] = {
    ExportTable.REQUESTS: (requests.c.id,),
    ExportTable.JOBS: (jobs.c.job,),
    ExportTable.SPANS: (spans.c.job,),
}
ORDER = "ordered_by"
MEDIA_TYPES = {ExportFormat.CSV: "text/csv; charset=utf-8", ExportFormat.JSON_LINES: "application/x-ndjson"}


def render_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Render a whole table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def export_rows(
    database: LedgerDatabase, table: ExportTable, span: DateRange, written_as: ExportFormat
) -> Iterator[str]:
    """Yield a table's rows within the range, as pieces of text. Raises LedgerUnavailableError."""
    query, order = _query(table, span)
    query = query.add_columns(order.label(ORDER)).order_by(order, *KEYS[table]).limit(ROWS_AT_ONCE)
    names = tuple(query.selected_columns.keys())[:-1]
    if written_as is ExportFormat.CSV:
        yield render_csv(names, ())
    after: tuple[Any, ...] | None = None
    while True:
        page = query if after is None else query.where(sa.tuple_(order, *KEYS[table]) > after)
        with database.read() as connection:
            rows = connection.execute(page).all()
        readable = ([_readable(name, value) for name, value in zip(names, row[:-1], strict=True)] for row in rows)
        if written_as is ExportFormat.CSV:
            yield render_csv(names, readable).partition("\n")[2]
        else:
            yield "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in readable)
        if len(rows) < ROWS_AT_ONCE:
            return
        last = rows[-1]._mapping
        after = (last[ORDER], *(last[key.name] for key in KEYS[table]))


def _query(table: ExportTable, span: DateRange) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    """Return the query, and the moment by which its rows are ordered."""
    if table is ExportTable.REQUESTS:
        within = sa.and_(requests.c.at >= span.start, requests.c.at < span.end)
        return sa.select(requests).where(within), requests.c.at
    if table is ExportTable.SPANS:
        within = sa.and_(spans.c.start < span.end, sa.or_(spans.c.end.is_(None), spans.c.end > span.start))
        return sa.select(spans).where(within), spans.c.start
    begun = sa.func.coalesce(jobs.c.submitted_at, jobs.c.started_at, 0.0)
    within = sa.and_(begun < span.end, sa.func.coalesce(jobs.c.ended_at, span.end) >= span.start)
    return sa.select(jobs).where(within), begun


def _readable(name: str, value: Any) -> Any:
    if name in TIMES and value is not None:
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def _cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula, nor for the beginning of another row."""
    if not isinstance(value, str):
        return value
    text = FORMULA_WITHIN.sub("'", f"'{value}" if value.startswith(FORMULA_STARTS) else value)
    # Python's csv puts no quotes around a carriage return, which ends a row all the same
    return text.replace("\r\n", "\n").replace("\r", "\n")
