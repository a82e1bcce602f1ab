"""A million requests and ten thousand jobs in the ledger: how long each view takes, over a month and over all of it.

SQLite in a file of its own, whose rows and sums are made by the code that reads the streams, and a real PostgreSQL
with the same rows. `python -m tests.bench.ledger` measures these alone, without a stack.
"""

from __future__ import annotations

import csv
import io
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from bouchet_api.ledger.accounting_views import compare_with_accounting, job_differences
from bouchet_api.ledger.database import LedgerDatabase, database_url
from bouchet_api.ledger.gpu_views import GpuBy, summarize_gpu_time
from bouchet_api.ledger.intake import take_entries
from bouchet_api.ledger.periods import DateRange
from bouchet_api.ledger.request_views import RequestsBy, last_requests, summarize_requests, total_requests
from bouchet_api.ledger.tables import metadata, requests
from bouchet_core.store.ledger import JOBS, REQUESTS, WaitingEntry

from tests.api.ledger.entries import accounting, job, request
from tests.fakes.postgres_server import running_postgres
from tests.stack.harness import Stack

from .figures import Figure, render

REQUESTS_IN_ALL, JOBS_IN_ALL, DAYS = 1_000_000, 10_000, 365
BATCH = 5000
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
KEYS, MODELS, AGENTS = 50, 12, 8
FAILED_SHARE = 0.001
TIMES = 5
TARGET_MS = 200
ZONE = ZoneInfo("America/New_York")

View = Callable[[sa.Connection, DateRange], object]


def million_requests(stack: Stack) -> list[Figure]:
    """Measure all views; the stack under test is not used."""
    del stack
    return measure_databases()


def measure_databases() -> list[Figure]:
    """Measure all views on both kinds of database."""
    with tempfile.TemporaryDirectory() as folder, running_postgres(Path(folder)) as server:
        sqlite = LedgerDatabase(database_url(None, Path(folder)))
        postgres = LedgerDatabase(database_url(server.new_database(), Path(folder)))
        try:
            fill(sqlite)
            copy(sqlite, postgres)
            return [
                figure
                for kind, database in (("SQLite", sqlite), ("PostgreSQL", postgres))
                for title, span in spans().items()
                for figure in measure(database, f"{kind}, {title}", span)
            ]
        finally:
            sqlite.close()
            postgres.close()


def copy(source: LedgerDatabase, target: LedgerDatabase) -> None:
    """Copy all rows, and let the database count them, as it does by itself in the course of an hour."""
    with source.read() as from_connection, target.begin() as to_connection:
        for table in metadata.sorted_tables:
            text = io.StringIO()
            rows = csv.writer(text)
            for row in from_connection.execution_options(yield_per=BATCH).execute(sa.select(table)):
                rows.writerow(["\\N" if value is None else value for value in row])
            text.seek(0)
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            cursor: Any = to_connection.connection.cursor()
            cursor.execute(f"COPY {table.name} ({names}) FROM STDIN WITH (FORMAT csv, NULL '\\N')", stream=text)
        to_connection.execute(sa.text("ANALYZE"))


def spans() -> dict[str, DateRange]:
    """Return the ranges: days of a zone with summer time."""
    first = FIRST.date() + timedelta(days=1)
    month = DateRange(first + timedelta(days=300), first + timedelta(days=329), ZONE)
    return {"a month": month, "a year": DateRange(first, first + timedelta(days=DAYS), ZONE)}


def fill(database: LedgerDatabase) -> None:
    """Store the rows in batches, as the consumer does."""
    source = random.Random(1)
    for stream, entries in ((REQUESTS, request_entries(source)), (JOBS, job_entries(source))):
        batch: list[WaitingEntry] = []
        for number, fields in enumerate(entries):
            batch.append(WaitingEntry(stream, f"{number}-0", fields))
            if len(batch) == BATCH:
                with database.begin() as connection:
                    take_entries(connection, batch)
                batch.clear()
        with database.begin() as connection:
            take_entries(connection, batch)
    with database.read() as connection:
        found = connection.scalar(sa.select(sa.func.count()).select_from(requests))
    assert found == REQUESTS_IN_ALL, found


def request_entries(source: random.Random) -> Iterator[dict[str, str]]:
    """Yield requests over the year, in the order of their ends."""
    step = DAYS * 86_400 / REQUESTS_IN_ALL
    same = {name: str(value) for name, value in asdict(request()).items() if value is not None}
    for number in range(REQUESTS_IN_ALL):
        yield {
            **same,
            "id": f"request-{number}",
            "at": str(FIRST.timestamp() + number * step),
            "key": f"person-{source.randrange(KEYS)}",
            "model": f"org/model-{source.randrange(MODELS)}",
            "agent": f"agent-{source.randrange(AGENTS)}",
            "error": "overloaded_error" if source.random() < FAILED_SHARE else "",
        }


def job_entries(source: random.Random) -> Iterator[dict[str, str]]:
    """Yield jobs of some hours, and what sacct says of each."""
    for number in range(JOBS_IN_ALL):
        begin = FIRST + timedelta(hours=number * DAYS * 24 / JOBS_IN_ALL)
        times = [begin + timedelta(minutes=minutes) for minutes in (0, 5, 12, 12 + source.randrange(30, 600))]
        at = [moment.strftime("%Y-%m-%dT%H:%M:%S") for moment in times]
        parts = (("queued", at[0], at[1]), ("starting", at[1], at[2]), ("serving", at[2], at[3]))
        name = f"bouchet-job{number}-1"
        yield {"body": job(name, *parts, model=f"org/model-{source.randrange(MODELS)}").model_dump_json()}
        yield {"body": accounting(name, 2 * (times[3] - times[1]).total_seconds(), times[3]).model_dump_json()}


def views() -> dict[str, View]:
    """Return every view of the API by its name, each as a route makes it."""
    now = datetime.now(UTC).timestamp()
    made: dict[str, View] = {
        "last 100 requests": lambda connection, _: last_requests(connection, 100),
        "last 100 failed requests": lambda connection, _: last_requests(connection, 100, failed=True),
        "jobs beside sacct": lambda connection, span: (
            compare_with_accounting(connection, span),
            job_differences(connection, span),
        ),
    }
    made |= {f"requests by {by}": partial(_requests_report, by) for by in RequestsBy}
    made |= {f"GPU time by {by}": partial(_gpu_report, by, now) for by in GpuBy}
    return made


def _requests_report(by: RequestsBy, connection: sa.Connection, span: DateRange) -> object:
    return summarize_requests(connection, by, span), total_requests(connection, span)


def _gpu_report(by: GpuBy, now: float, connection: sa.Connection, span: DateRange) -> object:
    return summarize_gpu_time(connection, by, span, now), compare_with_accounting(connection, span)


def measure(database: LedgerDatabase, title: str, span: DateRange) -> list[Figure]:
    """Time each view; the slowest is the figure, with the median of all beside it, and the processors' time.

    On a computer that does other work as well, the processors' time says more.
    """
    took: dict[str, float] = {}
    used: dict[str, float] = {}
    for name, view in views().items():
        times = []
        with database.read() as connection:
            cpu = cpu_s(connection)
            for _ in range(TIMES):
                began = time.perf_counter()
                assert view(connection, span), f"{name}: nothing"
                times.append((time.perf_counter() - began) * 1000)
            used[name] = (cpu_s(connection) - cpu) / TIMES * 1000
        took[name] = statistics.median(times)
    slowest = sorted(took, key=lambda name: -took[name])
    note = "; ".join(f"{name} {took[name]:.0f} ms (CPU {used[name]:.0f})" for name in slowest[:4])
    return [Figure(f"ledger of a million requests, {title}: slowest view", took[slowest[0]], "ms", TARGET_MS, note)]


def cpu_s(connection: sa.Connection) -> float:
    """Return the processor's seconds of this process, and of PostgreSQL's for this connection."""
    if connection.dialect.name == "sqlite":
        return time.process_time()
    server = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    ticks = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[11:13]
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure and print; return 1 if a target is missed."""
    figures = measure_databases()
    print(render(figures))
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
