"""A ledger on each kind of database, and entries as proxy and worker append them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bouchet_api.ledger.consumer import LedgerConsumer
from bouchet_api.ledger.database import LedgerDatabase, database_url
from bouchet_api.ledger.retention import Retention
from bouchet_core.store import Store

from tests.conftest import RedisServer
from tests.fakes.postgres_server import PostgresServer, running_postgres


@dataclass
class LedgerUnderTest:
    """A ledger whose consumer is run by hand. proxy, worker: stores with their rights in Redis."""

    database: LedgerDatabase
    consumer: LedgerConsumer
    proxy: Store
    worker: Store
    api: Store


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Yield a real PostgreSQL server."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LedgerDatabase]:
    """Yield an empty database of each kind."""
    url = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.new_database()
    database = LedgerDatabase(database_url(url, tmp_path))
    yield database
    database.close()


@pytest.fixture
def ledger(database: LedgerDatabase, redis_server: RedisServer) -> Iterator[LedgerUnderTest]:
    """Yield a ledger over this database and a real Redis."""
    with contextlib.ExitStack() as stack:
        proxy, worker, api = (
            stack.enter_context(contextlib.closing(redis_server.store(user))) for user in ("proxy", "worker", "api")
        )
        yield LedgerUnderTest(database, LedgerConsumer(api, database, Retention(400, 2048)), proxy, worker, api)


@pytest.fixture(scope="session", autouse=True)
def _postgres_is_installed() -> None:
    found = shutil.which("psql")
    assert found, "PostgreSQL is not installed; `make tools` installs it where it can"
    subprocess.run([found, "--version"], check=True, capture_output=True)
