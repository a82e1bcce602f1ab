"""A ledger of an older version keeps all that it has, whenever its migration is interrupted."""

from __future__ import annotations

from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from bouchet_api.ledger import database as database_module
from bouchet_api.ledger.database import MIGRATIONS, LedgerDatabase
from bouchet_api.ledger.gpu_views import GpuBy, summarize_gpu_time
from bouchet_api.ledger.periods import DateRange
from bouchet_api.ledger.request_views import RequestsBy, last_requests, summarize_requests, total_requests

from .conftest import LedgerUnderTest
from .entries import NOON, request

FIRST = "0001"
AT = int(NOON.timestamp())
QUARTER, DAY = AT // 900 * 900, AT // 86_400 * 86_400
DAYS = DateRange(date(2026, 11, 10), date(2026, 11, 10), ZoneInfo("UTC"))
SUMS = {"requests": 2, "errors": 1, "input": 70, "cached": 30, "output": 50}
REST = {"streams": 0, "first_ms": 0, "made": 50, "made_ms": 1000}


def upgrade(connection: sa.Connection, revision: str) -> None:
    """Bring the tables to that revision, within the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def old_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows of every table of the first version: two requests, one of which failed, and a job of an hour."""
    texts = {"key": "alice", "model": "org/m", "deployment": "aa", "job": "bouchet-aa-1", "session": "s"}
    rest = {"endpoint": "/v1/messages", "request_class": "main", "agent": "x", "client": "y", "at": AT, "cached": 15}
    same = {**texts, **rest, "input": 35, "first_ms": None, "generating_ms": 500}
    names = (("all", ""), ("key", "alice"), ("model", "org/m"), ("deployment", "aa"))
    job = {"partition": "gpu", "account": "", "gpus": 2, "gpu_type": "h200", "nodes": 1, "charge_unit": "SU"}
    times = {"submitted_at": AT - 60, "started_at": AT, "ended_at": AT + 3600, "charge_per_gpu_hour": 10.0}
    of_job = {"job": "bouchet-aa-1", "version": 3, "deployment": "aa", "model": "org/m", "alias": "m", "slurm_id": 7}
    return {
        "requests": [
            {**same, "id": "one", "status": 200, "error": "", "output": 50},
            {**same, "id": "two", "status": 529, "error": "overloaded_error", "output": 0},
        ],
        "request_sums": [
            {"by": by, "length": length, "start": start, "name": name, **SUMS, **REST}
            for by, name in names
            for length, start in ((900, QUARTER), (86_400, DAY))
        ],
        "error_sums": [{"start": QUARTER, "key": "alice", "error": "overloaded_error", "requests": 1}],
        "jobs": [{**of_job, **job, **times, "ending": "completed"}],
        "spans": [
            {"job": "bouchet-aa-1", "start": AT - 60, "kind": "queued", "end": AT},
            {"job": "bouchet-aa-1", "start": AT, "kind": "starting", "end": AT + 600},
            {"job": "bouchet-aa-1", "start": AT + 600, "kind": "serving", "end": AT + 3600},
        ],
    }


def fill_first_version(database: LedgerDatabase) -> sa.Engine:
    """Make the tables of the first version and their rows; return an engine that migrates nothing."""
    assert database._url is not None
    engine = database_module._make_engine(database._url)
    with engine.begin() as connection:
        upgrade(connection, FIRST)
        for name, rows in old_rows().items():
            connection.execute(sa.insert(sa.Table(name, sa.MetaData(), autoload_with=connection)), rows)
    return engine


def test_ledger_of_the_first_version_keeps_its_rows_and_sums(ledger: LedgerUnderTest) -> None:
    fill_first_version(ledger.database).dispose()
    with ledger.database.read() as connection:
        total = total_requests(connection, DAYS)
        assert (total.requests, total.errors, total.input_tokens, total.output_tokens) == (2, 1, 70, 50)
        for by in (RequestsBy.KEY, RequestsBy.MODEL, RequestsBy.DEPLOYMENT):
            (line,) = summarize_requests(connection, by, DAYS)
            assert (line.requests, line.errors_by_kind) == (2, {"overloaded_error": 1}), by
        assert [row["id"] for row in last_requests(connection, 9, failed=True)] == ["two"]
        for by_gpu in GpuBy:
            (gpu,) = summarize_gpu_time(connection, by_gpu, DAYS, AT + 9999.0).lines
            assert (gpu.gpu_hours, gpu.serving_hours, gpu.charge) == (2.0, 1.6667, 20.0), by_gpu
    # new rows come on top, and the next start changes nothing
    ledger.proxy.usage.add([request()])
    ledger.consumer.take_pending()
    ledger.database.close()
    with ledger.database.read() as connection:
        assert total_requests(connection, DAYS).requests == 3


def test_migration_that_is_interrupted_changes_nothing(database: LedgerDatabase) -> None:
    engine = fill_first_version(database)
    with engine.connect() as connection, connection.begin() as transaction:
        upgrade(connection, "head")
        transaction.rollback()
    found = sa.inspect(engine)
    assert "error_sums" in found.get_table_names() and "error_sums_by" not in found.get_table_names()
    assert "continued" not in {column["name"] for column in found.get_columns("requests")}
    engine.dispose()
    with database.read() as connection:
        assert total_requests(connection, DAYS).requests == 2
