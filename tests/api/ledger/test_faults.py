"""A database that does not work: a sentence, and entries that wait."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from bouchet_api.ledger import database as database_module
from bouchet_api.ledger.consumer import LedgerConsumer
from bouchet_api.ledger.database import LedgerDatabase, LedgerUnavailableError, database_url, describe
from bouchet_api.ledger.intake import take_entries
from bouchet_api.ledger.retention import Retention, database_bytes
from bouchet_api.ledger.tables import DAY_S, request_sums, requests
from bouchet_core.errors import ConfigurationError
from bouchet_core.store.ledger import REQUESTS, WaitingEntry

from tests.conftest import RedisServer, free_port
from tests.fakes.postgres_server import PASSWORD, PostgresServer, running_postgres, start_postgres
from tests.waiting import wait_for

from .conftest import LedgerUnderTest
from .entries import request


def number_of(database: LedgerDatabase, table: sa.Table) -> int:
    """Return how many rows there are."""
    with database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:secret@h/d", "mysql is not supported"),
        ("not a url", "not a URL"),
        ("postgresql://u:secret@h", "names no database"),
    ],
)
def test_url_of_another_kind_is_refused_without_its_password(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        database_url(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_server_that_is_not_there_is_a_sentence_and_entries_wait(tmp_path: Path, redis_server: RedisServer) -> None:
    database = LedgerDatabase(database_url(f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/d", tmp_path))
    api, proxy = redis_server.store("api"), redis_server.store("proxy")
    consumer = LedgerConsumer(api, database, Retention(1, 1))
    proxy.usage.add([request()])
    consumer.start()
    try:
        wait_for(lambda: consumer.problem)
    finally:
        consumer.stop()
    assert "cannot be reached; check BOUCHET_DB_URL" in consumer.problem and PASSWORD not in consumer.problem
    assert api.ledger.waiting() == 1
    with pytest.raises(LedgerUnavailableError, match="requests are served, and their entries wait"):
        database.engine()
    api.close()
    proxy.close()


def test_wrong_password_is_a_sentence_without_it(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database().replace(PASSWORD, "wrong-password")
    problem = LedgerDatabase(database_url(url, tmp_path)).problem()
    assert "password authentication failed" in problem and "wrong-password" not in problem


def test_database_of_a_newer_version_is_refused_and_not_changed(database: LedgerDatabase) -> None:
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    database.close()
    assert "written by a newer version of bouchet-llm (tables 0999)" in database.problem()
    assert "newer version" in database.problem()
    # the old version again, once another database is named
    with pytest.raises(LedgerUnavailableError):
        database.begin().__enter__()


def test_postgres_that_is_restarted_is_used_again(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "RETRY_S", 0.1)
    monkeypatch.setattr("bouchet_api.ledger.consumer.PAUSE_S", 0.2)
    with running_postgres(tmp_path) as server:
        database = LedgerDatabase(database_url(server.new_database(), tmp_path))
        api, proxy = redis_server.store("api"), redis_server.store("proxy")
        consumer = LedgerConsumer(api, database, Retention(400, 100))
        consumer.start()
        try:
            proxy.usage.add([request()])
            wait_for(lambda: consumer.counts.requests == 1)
            server.stop()
            proxy.usage.add([request()])
            wait_for(lambda: consumer.problem)
            again = start_postgres(server.data, server.port)
            wait_for(lambda: consumer.counts.requests == 2 and not consumer.problem, 30)
            assert number_of(database, requests) == 2
        finally:
            consumer.stop()
            database.close()
            again.process.terminate()
            again.process.wait(timeout=30)
            api.close()
            proxy.close()


def test_full_disk_is_a_sentence(tmp_path: Path) -> None:
    database = LedgerDatabase(database_url(None, tmp_path))
    entries = [
        WaitingEntry(REQUESTS, f"{n}-0", {"at": "1796000000", "key": "k" * 300, "id": str(n)}) for n in range(500)
    ]

    def fill() -> None:
        with database.begin() as connection:
            connection.execute(sa.text("PRAGMA max_page_count = 30"))
            take_entries(connection, entries)

    with pytest.raises(LedgerUnavailableError, match="is full; free some space, or lower LEDGER_KEEP_DAYS"):
        fill()
    assert number_of(database, requests) == 0
    database.close()


def test_folder_that_is_not_writable_is_a_sentence(tmp_path: Path) -> None:
    problem = LedgerDatabase(database_url(None, tmp_path / "absent")).problem()
    assert "unable to open database file" in problem


def test_error_is_described_without_the_values_of_the_statement() -> None:
    error = sa.exc.OperationalError("INSERT INTO x VALUES (?)", {"a": "private"}, Exception("table is locked"))
    assert describe(error, "/data/ledger") == "/data/ledger: table is locked"


def test_old_requests_are_removed_and_their_sums_stay(ledger: LedgerUnderTest) -> None:
    now = datetime(2026, 11, 10, tzinfo=UTC)
    old, new = now.timestamp() - 31 * DAY_S, now.timestamp() - 29 * DAY_S
    ledger.proxy.usage.add([request(at=datetime.fromtimestamp(at, UTC)) for at in (old, old, new)])
    ledger.consumer.take_pending()
    sums = number_of(ledger.database, request_sums)
    assert Retention(30, 2048).run(ledger.database, now.timestamp()) == 2
    assert (number_of(ledger.database, requests), number_of(ledger.database, request_sums)) == (1, sums)


def test_database_that_is_too_large_loses_its_oldest_days(tmp_path: Path) -> None:
    database = LedgerDatabase(database_url(None, tmp_path))
    for day in range(8):
        at = str(1_796_000_000 - day * DAY_S)
        entries = [
            WaitingEntry(REQUESTS, f"{day}-{n}", {"at": at, "key": "k" * 300, "id": f"{day}-{n}"}) for n in range(500)
        ]
        with database.begin() as connection:
            take_entries(connection, entries)
    assert database_bytes(database) > 1 << 20
    removed = Retention(400, 1).run(database, 1_796_000_000)
    assert 500 <= removed < 4000
    assert database_bytes(database) <= 1 << 20
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.max(requests.c.at))) == 1_796_000_000
    database.close()
