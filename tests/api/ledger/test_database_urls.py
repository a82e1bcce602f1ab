"""Every BOUCHET_DB_URL that does not work: the API starts, says so in a sentence without a password, and rows wait."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from bouchet_api.doctor import run_checks
from bouchet_api.ledger.database import LedgerDatabase, database_url
from bouchet_core.gateway_client import NO_TLS
from pydantic import SecretStr

from tests.conftest import RedisServer, free_port
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.postgres_server import PASSWORD, PostgresServer
from tests.fakes.running_api import ADMIN_KEY, running
from tests.waiting import wait_for

from .entries import request

SECRET = "Tr0ub4dor"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"mysql://u:{SECRET}@h/d", "mysql is not supported; use postgresql://"),
        (f"u:{SECRET}@h/d", "not a URL such as"),
        (f"postgresql://u:x@{SECRET}@127.0.0.1/d", "%40 for an @ of the password"),
        (f"postgresql://u:x@127.0.0.1/{SECRET}@127.0.0.1/d", "%40 for an @ of the password"),
        (f"postgresql://u:{SECRET}@127.0.0.1:99999/d", "cannot be reached"),
        (f"postgresql://u:{SECRET}@{'a' * 70}.example/d", "cannot be opened: its host is not a host's name"),
        (f"postgresql://u:{SECRET}@host.invalid/d", "cannot be reached"),
        (f"postgresql+psycopg://u:{SECRET}@127.0.0.1:FREE/d", "cannot be reached"),
        (f"postgres://u:{SECRET}@127.0.0.1:FREE/d", "cannot be reached"),
        (f"postgresql://u:{SECRET}@127.0.0.1/d?sslmode=on", "its sslmode is none of"),
        ("sqlite:////tmp", "unable to open database file"),
        ("\x00\x1b[2J", "not a URL such as"),
    ],
)
def test_api_starts_and_says_why_rows_wait(tmp_path: Path, redis_server: RedisServer, url: str, words: str) -> None:
    url = url.replace("FREE", str(free_port()))
    with (
        FakeGateway() as gateway,
        running(
            tmp_path, redis_server, gateway, change=lambda known: known.model_copy(update={"db_url": SecretStr(url)})
        ) as api,
        httpx.Client(
            base_url=api.url, headers={"x-api-key": ADMIN_KEY}, timeout=60, trust_env=False, verify=NO_TLS
        ) as client,
    ):
        api.store.usage.add([request()])
        problem = wait_for(lambda: client.get("/v1/status").raise_for_status().json()["ledger_problem"])
        assert words in problem
        views = [client.get(path) for path in ("/v1/ledger", "/v1/ledger/gpu", "/v1/ledger/export", "/usage")]
        assert {(view.status_code, view.json()["kind"]) for view in views} == {(503, "ledger_unavailable")}
        assert all(words in view.json()["detail"] for view in views)
        status = client.get("/v1/ledger/status").raise_for_status().json()
        assert words in status["problem"] and status["waiting"] == 1
        check = next(one for one in run_checks(api.state) if one.name == "ledger")
        assert words in check.message and "1 entries wait" in check.message
        texts = [problem, check.message, check.fix, str(status), *(view.text for view in views)]
        assert not [text for text in texts if SECRET in text or "\x1b" in text]


def test_tables_of_another_program_are_not_taken_for_a_newer_version(tmp_path: Path, postgres: PostgresServer) -> None:
    database = LedgerDatabase(database_url(postgres.new_database(), tmp_path))
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'ae1027a6acf'"))
    database.close()
    assert "tables of another program" in database.problem()
    assert PASSWORD not in database.problem()
    database.close()
