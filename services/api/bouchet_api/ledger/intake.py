"""Entries into rows: each entry once, however often it is delivered, and sums in the same transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from bouchet_core.ledger import AccountingEntry, JobEntry, JobSpan, Pause, SpanKind, parse_entry, with_pauses
from bouchet_core.store.ledger import JOBS, WaitingEntry
from sqlalchemy.dialects import postgresql, sqlite

from .fitting import fitted
from .tables import COUNTS, DAY_S, KINDS, QUARTER_S, error_sums, jobs, request_sums, requests, spans

# the end of the year 9999: later moments are no dates
LAST_MOMENT = 253_402_300_799
# of one request; a count that a server invents must not make the sums overflow
MOST_TOKENS = 10**9
NUMBERS = ("status", "input", "cached", "output", "generating_ms", "continued")
TEXTS = (
    *("key", "model", "deployment", "job", "session", "endpoint", "request_class", "agent", "client", "error"),
)  # fmt: skip
# dimension of the sums -> column of the rows
DIMENSIONS = {
    "key": "key",
    "model": "model",
    "deployment": "deployment",
    "class": "request_class",
    "agent": "agent",
    "client": "client",
}
ALL = "all"
# of these, errors are summed by their kind as well
ERRORS_OF = ("key", "model", "deployment")
COUNTED = ("requests", *COUNTS)
Row = dict[str, Any]


@dataclass(frozen=True)
class IntakeResult:
    """What a batch of entries came to. lost: entries that were dropped from their stream before they were read."""

    requests: int = 0
    jobs: int = 0
    lost: int = 0
    unreadable: int = 0


def take_entries(connection: sa.Connection, entries: Sequence[WaitingEntry]) -> IntakeResult:
    """Store the entries, within the caller's transaction; those that are stored already change nothing."""
    rows: list[Row] = []
    changed_jobs = lost = unreadable = 0
    for entry in entries:
        if entry.fields is None:
            lost += 1
        elif entry.stream == JOBS:
            found = parse_entry(entry.fields)
            changed_jobs += found is not None
            unreadable += found is None
            if isinstance(found, JobEntry):
                _take_job(connection, found)
            elif isinstance(found, AccountingEntry):
                _take_accounting(connection, found)
        else:
            row = request_row(entry)
            unreadable += row is None
            rows += [row] if row is not None else []
    new = _insert_requests(connection, rows)
    return IntakeResult(new, changed_jobs, lost, unreadable)


def request_row(entry: WaitingEntry) -> Row | None:
    """Return the row of a request's entry, None if it cannot be read. An entry without an id has its stream's."""
    fields = entry.fields or {}
    try:
        row: Row = {name: fields.get(name, "") for name in TEXTS}
        row |= {name: _count(fields.get(name) or "0") for name in NUMBERS}
        row["at"] = float(fields["at"])
        row["first_ms"] = _count(fields["first_ms"]) if fields.get("first_ms") else None
    except (KeyError, ValueError):
        return None
    row["id"] = fields.get("id") or entry.id
    return fitted(requests, row) if 0 <= row["at"] <= LAST_MOMENT else None


def _count(text: str) -> int:
    return max(0, min(int(text), MOST_TOKENS))


def _insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _insert_requests(connection: sa.Connection, rows: Iterable[Row]) -> int:
    """Insert rows and add them to the sums; return how many were new."""
    by_id = {row["id"]: row for row in rows}
    if not by_id:
        return 0
    known = set(connection.scalars(sa.select(requests.c.id).where(requests.c.id.in_(list(by_id)))))
    new = [row for identity, row in by_id.items() if identity not in known]
    if new:
        connection.execute(sa.insert(requests), new)
        _add_sums(connection, new)
    return len(new)


def _add_sums(connection: sa.Connection, rows: Sequence[Row]) -> None:
    sums: dict[tuple[str, int, int, str], list[int]] = {}
    errors: Counter[tuple[str, int, str, str]] = Counter()
    for row in rows:
        counts = _counts(row)
        start = int(row["at"]) // QUARTER_S * QUARTER_S
        for by, column in (*DIMENSIONS.items(), (ALL, None)):
            if column is None or row[column]:
                _add(sums, (by, QUARTER_S, start, row[column] if column else ""), counts)
        if row["error"]:
            errors.update((by, start, row[by], row["error"][:100]) for by in ERRORS_OF if row[by])
    for (by, _, start, name), counts in list(sums.items()):
        _add(sums, (by, DAY_S, start // DAY_S * DAY_S, name), counts)
    insert = _insert(connection, request_sums)
    added = {name: request_sums.c[name] + insert.excluded[name] for name in COUNTED}
    connection.execute(
        insert.on_conflict_do_update(index_elements=list(request_sums.primary_key), set_=added),
        [
            {"by": by, "length": length, "start": start, "name": name, **dict(zip(COUNTED, counts, strict=True))}
            for (by, length, start, name), counts in sorted(sums.items())
        ],
    )
    if errors:
        insert = _insert(connection, error_sums)
        more = {"requests": error_sums.c.requests + insert.excluded.requests}
        connection.execute(
            insert.on_conflict_do_update(index_elements=list(error_sums.primary_key), set_=more),
            [
                {"by": by, "start": start, "name": name, "error": error, "requests": number}
                for (by, start, name, error), number in sorted(errors.items())
            ],
        )


def _counts(row: Mapping[str, Any]) -> list[int]:
    """Return what a request adds to each of COUNTED."""
    first_ms, made = row["first_ms"], row["output"]
    return [
        *(1, 1 if row["error"] else 0, row["input"], row["cached"], made),
        *(0 if first_ms is None else 1, first_ms or 0, made, row["generating_ms"] if made else 0),
        row["continued"],
    ]


def _add(sums: dict[tuple[str, int, int, str], list[int]], key: tuple[str, int, int, str], counts: list[int]) -> None:
    known = sums.get(key)
    sums[key] = counts if known is None else [a + b for a, b in zip(known, counts, strict=True)]


def _take_job(connection: sa.Connection, entry: JobEntry) -> None:
    """Store a job's facts unless newer ones are there, and its spans in any case."""
    row = entry.model_dump(exclude={"type", "spans"})
    row = fitted(jobs, row | {name: _unix(row[name]) for name in ("submitted_at", "started_at", "ended_at")})
    insert = _insert(connection, jobs)
    newer = {name: insert.excluded[name] for name in row if name != "job"}
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[jobs.c.job], set_=newer, where=jobs.c.version <= insert.excluded.version
        ),
        [row],
    )
    if entry.spans:
        _take_spans(connection, row["job"], entry.spans)


def _take_spans(connection: sa.Connection, job: str, found: Sequence[JobSpan]) -> None:
    insert = _insert(connection, spans)
    changed = {
        "kind": insert.excluded.kind,
        # an entry that comes late does not open a span again
        "end": sa.func.coalesce(insert.excluded.end, spans.c.end),
    }
    connection.execute(
        insert.on_conflict_do_update(index_elements=[spans.c.job, spans.c.start], set_=changed),
        [
            {"job": job, "start": _unix(span.start), "kind": str(span.kind), "end": _unix(span.end)}
            for span in sorted(found, key=lambda span: span.start)
        ],
    )
    _sum_spans(connection, job)


def _sum_spans(connection: sa.Connection, job: str) -> None:
    """Keep with the job what its spans come to."""
    length = sa.func.sum(spans.c.end - spans.c.start)
    lasts = sa.func.count() > sa.func.count(spans.c.end)
    columns = [
        sa.func.min(spans.c.start).label("first_span"),
        sa.case((lasts, None), else_=sa.func.max(spans.c.end)).label("last_span"),
        *(sa.func.coalesce(length.filter(spans.c.kind == kind), 0.0).label(f"{kind}_s") for kind in KINDS),
    ]
    found = connection.execute(sa.select(*columns).where(spans.c.job == job)).mappings().one()
    connection.execute(sa.update(jobs).where(jobs.c.job == job).values(**found))


def _take_accounting(connection: sa.Connection, entry: AccountingEntry) -> None:
    at = entry.asked_at.timestamp()
    found = {"accounted_gpu_s": entry.gpu_s, "accounted_runs": entry.runs, "accounted_state": entry.state}
    row = fitted(jobs, {"job": entry.job, "accounted_at": at, **found})
    known = sa.and_(jobs.c.job == row.pop("job"), sa.func.coalesce(jobs.c.accounted_at, 0) <= at)
    job = fitted(jobs, {"job": entry.job})["job"]
    if connection.execute(sa.update(jobs).where(known).values(**row)).rowcount and entry.pauses:
        _take_pauses(connection, job, entry.pauses)


def _take_pauses(connection: sa.Connection, job: str, pauses: Sequence[Pause]) -> None:
    """Correct the spans of a job that Slurm has requeued: accounting has the ends of its runs to the second."""
    rows = connection.execute(sa.select(spans).where(spans.c.job == job).order_by(spans.c.start)).all()
    known = [_span(row) for row in rows]
    corrected = with_pauses(known, pauses)
    if corrected == known:
        return
    connection.execute(sa.delete(spans).where(spans.c.job == job))
    _take_spans(connection, job, corrected)


def _span(row: sa.Row[Any]) -> JobSpan:
    end = None if row.end is None else _date(row.end)
    return JobSpan(kind=SpanKind(row.kind), start=_date(row.start), end=end)


def _date(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _unix(moment: Any) -> float | None:
    return None if moment is None else round(float(moment.timestamp()), 3)
