"""A database that does not work: a sentence, and entries that wait."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from bouchet_api.ledger import database as database_module
from bouchet_api.ledger.consumer import LedgerConsumer
from bouchet_api.ledger.database import LedgerDatabase, LedgerUnavailableError, database_url, describe
from bouchet_api.ledger.intake import take_entries
from bouchet_api.ledger.retention import Retention, database_bytes
from bouchet_api.ledger.tables import DAY_S, request_sums, requests
from bouchet_core.errors import ConfigurationError
from bouchet_core.store.ledger import REQUESTS, WaitingEntry
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

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
        ("postgresql://u:secret@h:port/d", "not a URL"),
        ("postgresql://u:secret@[::1/d", "not a URL"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h/d?sslmode=verify_full", "sslmode is none of disable, allow"),
        ("postgresql://u:secret@h/d?sslmode=verify-full&sslrootcert=/absent", "sslrootcert /absent cannot be used"),
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


def give_certificate(server: PostgresServer, host: str) -> Path:
    """Let the server speak TLS with a certificate for that host; return the file of who has signed it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    made = made.add_extension(names, critical=False).add_extension(x509.BasicConstraints(True, None), critical=True)
    certificate = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, kind, serialization.NoEncryption())
    owner = server.data.stat()
    for file, content in (("server.crt", certificate), ("server.key", private)):
        path = server.data / file
        path.write_bytes(content)
        path.chmod(0o600)
        os.chown(path, owner.st_uid, owner.st_gid)
    server.query("postgres", "ALTER SYSTEM SET ssl = on")
    server.query("postgres", "SELECT pg_reload_conf()")
    wait_for(lambda: server.query("postgres", "SHOW ssl") == "on")
    return server.data / "server.crt"


def test_sslmode_means_what_it_means_to_psql(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with running_postgres(tmp_path / "server") as server:
        url = server.new_database()
        authority = tmp_path / "authority.pem"

        def problem(options: str, host: str = "127.0.0.1") -> str:
            database = LedgerDatabase(database_url(f"{url.replace('127.0.0.1', host)}?{options}", tmp_path))
            found = database.problem()
            database.close()
            return found

        assert "SSL" in problem("sslmode=require"), "the server does not speak TLS yet"
        authority.write_bytes(give_certificate(server, "localhost").read_bytes())
        trusted = f"sslrootcert={authority}"
        for options in ("sslmode=disable", "sslmode=prefer", "sslmode=require", f"sslmode=verify-ca&{trusted}"):
            assert problem(options) == "", options
        assert problem(f"sslmode=verify-full&{trusted}", "localhost") == ""
        assert "certificate" in problem(f"sslmode=verify-full&{trusted}"), "it is for another name"
        assert "certificate" in problem("sslmode=verify-full", "localhost"), "no known authority has signed it"


def test_migration_may_take_longer_than_an_answer(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database_url(postgres.new_database(), tmp_path)
    monkeypatch.setattr(database_module, "ANSWER_TIMEOUT_S", 1)
    upgrade = command.upgrade

    def slow(config: Config, revision: str) -> None:
        config.attributes["connection"].execute(sa.text("SELECT pg_sleep(2)"))
        upgrade(config, revision)

    monkeypatch.setattr(command, "upgrade", slow)
    database = LedgerDatabase(url)
    assert database.problem() == "" and number_of(database, requests) == 0
    database.close()


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

    with pytest.raises(LedgerUnavailableError, match=r"is full; free some space \(LEDGER_KEEP_DAYS"):
        fill()
    assert number_of(database, requests) == 0
    database.close()


@pytest.mark.parametrize("helped_by", ["space", "retention"])
def test_entries_wait_while_the_disk_is_full_and_are_stored_once_it_is_not(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, helped_by: str
) -> None:
    monkeypatch.setattr("bouchet_api.ledger.consumer.PAUSE_S", 0.1)
    database, api, proxy = (
        LedgerDatabase(database_url(None, tmp_path)),
        redis_server.store("api"),
        redis_server.store("proxy"),
    )
    old = [
        WaitingEntry(REQUESTS, f"{n}-0", {"at": "1700000000", "key": "k" * 300, "id": f"old-{n}"}) for n in range(900)
    ]
    with database.begin() as connection:
        take_entries(connection, old)
    set_pages(database, 0)
    proxy.usage.add([request(at=datetime.now(UTC)) for _ in range(150)])
    consumer = LedgerConsumer(api, database, Retention(100_000, 2048))
    consumer.start()
    try:
        wait_for(lambda: "is full; free some space" in consumer.problem)
        assert api.ledger.waiting() == 150 and number_of(database, requests) == 900
        if helped_by == "space":
            set_pages(database, 100_000)
        else:
            # as after a restart with another setting
            consumer.stop()
            consumer = LedgerConsumer(api, database, Retention(30, 2048))
            consumer.start()
        wait_for(lambda: consumer.counts.requests == 150 and not consumer.problem)
    finally:
        consumer.stop()
        database.close()
        api.close()
        proxy.close()


def set_pages(database: LedgerDatabase, most: int) -> None:
    """Let the file have that many pages at most; 0: no more than it has."""

    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most or 1}")

    engine = database.engine()
    sa.event.listen(engine, "connect", limit)
    engine.dispose()


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
