"""Entries into rows, on each kind of database: nothing counts twice, whatever is delivered again."""

from __future__ import annotations

import json
import threading
from datetime import date
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from bouchet_api.ledger.database import LedgerDatabase
from bouchet_api.ledger.intake import take_entries
from bouchet_api.ledger.periods import DateRange
from bouchet_api.ledger.request_views import total_requests
from bouchet_api.ledger.tables import jobs, metadata, request_sums, requests, spans
from bouchet_core.ledger import Pause
from bouchet_core.store.ledger import REQUESTS, WaitingEntry

from tests.conftest import RedisServer

from .conftest import LedgerUnderTest
from .entries import NOON, accounting, job, moment, request


def rows(database: LedgerDatabase, table: sa.Table) -> list[dict[str, Any]]:
    """Return all rows of a table."""
    with database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def total(database: LedgerDatabase, column: str, length: int = 900) -> int:
    """Return the sum over all requests."""
    with database.read() as connection:
        query = sa.select(sa.func.sum(request_sums.c[column])).where(
            request_sums.c.by == "all", request_sums.c.length == length
        )
        return int(connection.scalar(query) or 0)


def test_migrations_make_the_tables_that_the_code_uses(database: LedgerDatabase) -> None:
    found = sa.inspect(database.engine())
    assert set(found.get_table_names()) == {*metadata.tables, "alembic_version"}
    for name, table in metadata.tables.items():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(name)}
        assert columns == {column.name: column.nullable for column in table.columns}
        assert set(found.get_pk_constraint(name)["constrained_columns"]) == {c.name for c in table.primary_key}
        assert {index["name"] for index in found.get_indexes(name)} == {index.name for index in table.indexes}


def test_a_request_is_a_row_with_its_class_and_agent(ledger: LedgerUnderTest) -> None:
    made = request(request_class="subagent", agent="Explore", first_ms=None)
    ledger.proxy.usage.add([made])
    assert ledger.consumer.take_pending() == 1
    [row] = rows(ledger.database, requests)
    assert (row["id"], row["at"], row["key"]) == (made.id, made.at, "alice")
    assert (row["request_class"], row["agent"], row["client"]) == ("subagent", "Explore", "claude-code")
    assert (row["input"], row["cached"], row["output"], row["first_ms"]) == (10, 90, 5, None)
    assert ledger.api.ledger.waiting() == 0


def test_requests_that_are_appended_or_delivered_again_count_once(ledger: LedgerUnderTest) -> None:
    made = [request(), request(error="overloaded", status=529, output=0)]
    # an answer of Redis that was lost: the proxy appends the same again
    ledger.proxy.usage.add(made)
    ledger.proxy.usage.add(made)
    # read and not acknowledged, as by an API that was killed before its transaction, and after it
    read = ledger.api.ledger.wait(10, 0.001)
    assert len(read) == 4
    with ledger.database.begin() as connection:
        assert take_entries(connection, read).requests == 2
    assert ledger.consumer.take_pending() == 4
    assert len(rows(ledger.database, requests)) == 2
    assert (total(ledger.database, "requests"), total(ledger.database, "errors")) == (2, 1)
    assert total(ledger.database, "requests", 86_400) == 2
    assert total(ledger.database, "made") == 5


def test_a_transaction_that_fails_leaves_its_entries_to_the_next(ledger: LedgerUnderTest) -> None:
    ledger.proxy.usage.add([request() for _ in range(3)])
    entries = ledger.api.ledger.wait(10, 0.001)
    try:
        with ledger.database.begin() as connection:
            take_entries(connection, entries)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert (rows(ledger.database, requests), total(ledger.database, "requests")) == ([], 0)
    assert ledger.consumer.take_pending() == 3
    assert total(ledger.database, "requests") == 3


def test_entries_of_other_versions_and_odd_ones_are_passed_over(ledger: LedgerUnderTest) -> None:
    client = ledger.proxy.queue_connection()
    client.xadd("bouchet:ledger:requests", {"at": "soon", "key": "alice"})
    client.xadd("bouchet:ledger:requests", {"at": "1796000000", "key": "bob\x00" * 200, "a_new_field": "1"})
    client.close()
    worker = ledger.worker.queue_connection()
    worker.xadd("bouchet:ledger:jobs", {"body": '{"type":"of tomorrow"}'})
    worker.xadd("bouchet:ledger:jobs", {"other": "x"})
    worker.close()
    assert ledger.consumer.take_pending() == 4
    [row] = rows(ledger.database, requests)
    assert len(str(row["key"])) == 300 and "\x00" not in str(row["key"])
    assert ledger.consumer.counts.unreadable == 3


HOSTILE_REQUESTS = [
    {"id": "a\x00b"},
    {"id": "x" * 65_536},
    {"model": "m\x00" * 65_536},
    {"agent": "\u202e\u200b\x9b2J<script>"},
    {"at": "nan"},
    {"at": "inf"},
    {"at": "-1e300"},
    {"at": "1e300"},
    {"input": str(10**30)},
    {"output": str(2**63)},
    {"output": "-5"},
    {"status": str(2**40)},
    {"first_ms": str(10**20)},
    {"generating_ms": "9" * 5000},
    {"continued": "٣"},
]


@pytest.mark.parametrize("fields", HOSTILE_REQUESTS, ids=lambda fields: ascii(fields)[:40])
def test_no_request_keeps_those_after_it_from_the_ledger(ledger: LedgerUnderTest, fields: dict[Any, Any]) -> None:
    client = ledger.proxy.queue_connection()
    client.xadd("bouchet:ledger:requests", {"at": "1796000000", "key": "alice", "id": "hostile", **fields})
    client.close()
    ledger.proxy.usage.add([request(key="after")])
    assert ledger.consumer.take_pending() == 2
    found = rows(ledger.database, requests)
    assert "after" in {row["key"] for row in found}
    with ledger.database.read() as connection:
        assert total_requests(
            connection, DateRange(date(2026, 1, 1), date(2027, 12, 31), ZoneInfo("UTC"))
        ).requests == len(found)


HOSTILE_JOBS = [
    {"job": "a\x00b"},
    {"job": "x" * 65_536},
    {"model": "m\x00", "alias": "\x00", "ending": "\x00", "partition": "\x00"},
    {"version": 2**70},
    {"slurm_id": 2**70},
    {"gpus": 2**40, "nodes": -(2**40)},
    {"charge_per_gpu_hour": float("inf")},
    {"charge_per_gpu_hour": float("nan")},
    {"started_at": "0001-01-01T00:00:00Z", "ended_at": "9999-12-31T23:59:59Z"},
]


@pytest.mark.parametrize("changes", HOSTILE_JOBS, ids=lambda changes: ascii(changes)[:40])
def test_no_job_keeps_those_after_it_from_the_ledger(ledger: LedgerUnderTest, changes: dict[str, object]) -> None:
    hostile = json.loads(job("hostile", ("serving", "2026-11-10T10:00:00", None)).model_dump_json()) | changes
    states = json.loads(accounting("hostile", 1.0).model_dump_json()) | {"state": "\x00", "gpu_s": float("inf")}
    worker = ledger.worker.queue_connection()
    for body in (hostile, states | {"job": hostile["job"]}, states | {"runs": 2**70}):
        worker.xadd("bouchet:ledger:jobs", {"body": json.dumps(body)})
    worker.close()
    ledger.worker.ledger.append([job("after")])
    assert ledger.consumer.take_pending() == 4
    assert "after" in {row["job"] for row in rows(ledger.database, jobs)}


def test_entries_that_redis_dropped_are_counted(ledger: LedgerUnderTest) -> None:
    with ledger.database.begin() as connection:
        assert take_entries(connection, [WaitingEntry(REQUESTS, "1-0", None)]).lost == 1


def test_a_job_keeps_its_newest_facts_and_one_span_for_each_start(ledger: LedgerUnderTest) -> None:
    first = job("j", ("queued", "2026-11-10T10:00", "2026-11-10T10:05"), ("starting", "2026-11-10T10:05", None))
    second = job("j", ("starting", "2026-11-10T10:05", "2026-11-10T10:15"), version=2, slurm_id=4712)
    ledger.worker.ledger.append([first, second, first])
    assert ledger.consumer.take_pending() == 3
    [row] = rows(ledger.database, jobs)
    assert (row["version"], row["slurm_id"]) == (2, 4712)
    found = rows(ledger.database, spans)
    assert [(row["kind"], row["end"] is not None) for row in found] == [("queued", True), ("starting", True)]


def test_accounting_changes_a_known_job_only(ledger: LedgerUnderTest) -> None:
    made = job("j", ("starting", "2026-11-10T10:00", "2026-11-10T11:00"))
    ledger.worker.ledger.append([accounting("j", 1.0), made, accounting("j", 7201.0), accounting("other", 5.0)])
    assert ledger.consumer.take_pending() == 4
    [row] = rows(ledger.database, jobs)
    assert (row["accounted_gpu_s"], row["accounted_at"]) == (7201.0, NOON.timestamp())


def pause(start: str, end: str) -> Pause:
    return Pause(start=moment(start), end=moment(end))


RUNS = (
    ("queued", "2026-11-10T09:59", "2026-11-10T10:00"),
    ("starting", "2026-11-10T10:00", "2026-11-10T10:10:04"),
    ("queued", "2026-11-10T10:10:04", "2026-11-10T10:15"),
    ("starting", "2026-11-10T10:15", "2026-11-10T10:16"),
    ("serving", "2026-11-10T10:16", "2026-11-10T10:45"),
)


@pytest.mark.parametrize(
    ("seen", "pauses", "allocated_s"),
    [
        # the end of the first run was seen four seconds late
        (RUNS, [pause("2026-11-10T10:10", "2026-11-10T10:15")], 600 + 1800),
        # and the cluster's clock is twenty seconds behind, or ahead
        (RUNS, [pause("2026-11-10T10:09:40", "2026-11-10T10:14:40")], 600 + 1800),
        (RUNS, [pause("2026-11-10T10:10:20", "2026-11-10T10:15:20")], 600 + 1800),
        # Slurm requeued it twice while the worker was away
        (
            (("starting", "2026-11-10T10:00", "2026-11-10T11:00"),),
            [pause("2026-11-10T10:10", "2026-11-10T10:20"), pause("2026-11-10T10:30", "2026-11-10T10:31")],
            3600 - 660,
        ),
        # accounting of another time changes nothing
        (RUNS, [pause("2026-11-09T10:10", "2026-11-09T10:15")], 604 + 1800),
    ],
)
def test_pauses_of_a_requeued_job_are_no_gpu_time(
    ledger: LedgerUnderTest, seen: tuple[tuple[str, str, str], ...], pauses: list[Pause], allocated_s: float
) -> None:
    of_sacct = accounting("j", 2.0 * allocated_s, pauses=pauses, runs=2)
    ledger.worker.ledger.append([job("j", *seen), of_sacct, of_sacct])
    ledger.consumer.take_pending()
    ledger.worker.ledger.append([of_sacct])
    assert ledger.consumer.take_pending() == 1
    [row] = rows(ledger.database, jobs)
    assert sum(row[f"{kind}_s"] for kind in ("starting", "serving", "idle", "draining")) == allocated_s
    found = sorted(rows(ledger.database, spans), key=lambda span: span["start"])
    assert (found[0]["start"], found[-1]["end"]) == (moment(seen[0][1]).timestamp(), moment(seen[-1][2]).timestamp())
    assert all(one["end"] == after["start"] for one, after in pairwise(found))


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-10T10:10:00"])
def test_a_pause_that_is_no_time_keeps_nothing_from_the_ledger(ledger: LedgerUnderTest, at: str) -> None:
    hostile = json.loads(accounting("j", 1.0).model_dump_json()) | {"pauses": [{"start": at, "end": at}]}
    ledger.worker.ledger.append([job("j", *RUNS)])
    worker = ledger.worker.queue_connection()
    worker.xadd("bouchet:ledger:jobs", {"body": json.dumps(hostile)})
    worker.close()
    ledger.worker.ledger.append([job("after")])
    assert ledger.consumer.take_pending() == 3
    assert {row["job"] for row in rows(ledger.database, jobs)} == {"j", "after"}


def test_group_is_made_again_after_redis_was_emptied(ledger: LedgerUnderTest, redis_server: object) -> None:
    ledger.proxy.usage.add([request()])
    assert ledger.consumer.take_pending() == 1
    root = redis_server.store()  # type: ignore[attr-defined]
    connection = root.queue_connection()
    connection.flushall()
    connection.close()
    root.close()
    ledger.proxy.usage.add([request()])
    assert ledger.consumer.take_pending() == 1
    assert total(ledger.database, "requests") == 2


def test_redis_that_is_emptied_again_and_again_is_no_error(ledger: LedgerUnderTest, redis_server: RedisServer) -> None:
    root, stopping = redis_server.store(), threading.Event()
    connection = root.queue_connection()

    def empty() -> None:
        while not stopping.wait(0.02):
            connection.flushall()

    emptying = threading.Thread(target=empty)
    emptying.start()
    try:
        assert [ledger.api.ledger.wait(1, 0.2) for _ in range(10)] == [[]] * 10
    finally:
        stopping.set()
        emptying.join()
        connection.close()
        root.close()
