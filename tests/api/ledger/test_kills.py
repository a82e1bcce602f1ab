"""Nothing is lost and nothing counts twice while the API, the appending processes and Redis are killed.

All are real processes: `python -m bouchet_api`, a program that appends as proxy and worker do, and redis-server.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from bouchet_api.ledger.database import LedgerDatabase, database_url
from bouchet_api.ledger.tables import jobs, request_sums, requests, spans

from tests.conftest import RedisServer, free_port, start_redis
from tests.fakes.gateway_api import TOKEN
from tests.fakes.running_api import ADMIN_KEY, CATALOG, SITE
from tests.waiting import wait_for

REQUESTS, JOBS, KILLS = 2_000, 200, 30
# appends requests FIRST to LAST and a job for every tenth, again and again until Redis has taken each
APPEND = """
import sys, time
from datetime import UTC, datetime, timedelta
from bouchet_core.errors import StoreError
from bouchet_core.ledger import JobEntry, JobSpan, SpanKind
from bouchet_core.store import RedisLogin, Store
from bouchet_core.usage import UsageRecord

port, first, last = map(int, sys.argv[1:])
proxy, worker = (Store.connect(RedisLogin("127.0.0.1", port, "secret", user)) for user in ("proxy", "worker"))
start = datetime(2026, 11, 10, tzinfo=UTC)
for number in range(first, last):
    at = start + timedelta(seconds=30 * number)
    record = UsageRecord(at=at.timestamp(), key=f"key-{number % 5}", model="m", session="", deployment="d",
                         endpoint="/v1/messages", status=200, error="", input=1, cached=0, output=2, first_ms=None,
                         generating_ms=10, id=f"request-{number}")
    span = JobSpan(kind=SpanKind.SERVING, start=at, end=at + timedelta(seconds=10))
    entry = JobEntry(job=f"job-{number}", deployment="d", model="m", gpus=1, version=1, spans=(span,))
    while True:
        try:
            proxy.usage.add([record])
            if number % 10 == 0:
                worker.ledger.append([entry])
            break
        except StoreError:
            time.sleep(0.05)
    print(number, flush=True)
    time.sleep(0.005)
"""


def start_api(directory: Path, redis_port: int) -> subprocess.Popen[bytes]:
    """Start the API as a process."""
    environment = {
        **os.environ,
        "SECRETS_DIR": str(directory),
        "BOUCHET_SITE_FILE": str(directory / "site.yaml"),
        "BOUCHET_CATALOG": str(directory / "models.yaml"),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_port),
        "GATEWAY_URL": "http://127.0.0.1:1",
        "API_PORT": str(free_port()),
        "LEDGER_DIR": str(directory),
    }
    program = [sys.executable, "-m", "bouchet_api"]
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_appending(redis_port: int, number: int) -> subprocess.Popen[str]:
    """Start a process that appends from that request on."""
    argv = [sys.executable, "-c", APPEND, str(redis_port), str(number), str(REQUESTS)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def last_number(process: subprocess.Popen[str]) -> int | None:
    """Kill the process and return the last request that it appended for certain."""
    process.kill()
    printed = process.communicate()[0].split()
    return int(printed[-1]) if printed else None


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_kills_of_api_appending_processes_and_redis_lose_and_double_nothing(tmp_path: Path) -> None:
    for name, value in {
        "admin_key": ADMIN_KEY,
        "redis_password": "secret",
        "gateway_token": TOKEN,
        "chat_key": "chat",
        "attach_secret": "attach",
    }.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "models.yaml").write_text(CATALOG)
    (tmp_path / "site.yaml").write_text(SITE)
    choose = random.Random(14)
    redis: RedisServer = start_redis(tmp_path, free_port(), "always")
    port, done = redis.port, -1
    api, appending = start_api(tmp_path, port), start_appending(port, 0)
    database = LedgerDatabase(database_url(None, tmp_path))
    try:
        for kill in range(KILLS):
            time.sleep(choose.uniform(0.2, 1.2))
            if kill % 3 == 0:
                api.kill()
                api.wait()
                api = start_api(tmp_path, port)
            elif kill % 3 == 1:
                found = last_number(appending)
                done = done if found is None else found
                # as a proxy or a worker that does not know whether its last append arrived
                appending = start_appending(port, done + 1)
            else:
                redis.stop()
                redis = start_redis(tmp_path, port, "always")
        assert appending.wait(timeout=300) == 0

        def rows_of(table: sa.Table) -> int:
            with database.read() as connection:
                return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)

        def explain() -> str:
            with database.read() as connection:
                known = set(connection.scalars(sa.select(requests.c.id)))
            missing = [number for number in range(REQUESTS) if f"request-{number}" not in known]
            return f"{rows_of(jobs)} jobs; missing: {missing[:20]}; waiting: {redis.store().ledger.waiting()}"

        wait_for(lambda: rows_of(requests) >= REQUESTS and rows_of(jobs) >= JOBS, 120, explain)
        time.sleep(3)
        assert (rows_of(requests), rows_of(jobs), rows_of(spans)) == (REQUESTS, JOBS, JOBS)
        for length in (900, 86_400):
            is_total = sa.and_(request_sums.c.by == "all", request_sums.c.length == length)
            with database.read() as connection:
                total = connection.execute(
                    sa.select(sa.func.sum(request_sums.c.requests), sa.func.sum(request_sums.c.output)).where(is_total)
                ).one()
            assert tuple(total) == (REQUESTS, 2 * REQUESTS)
    finally:
        database.close()
        for process in (api, appending, redis.process):
            process.kill()
            process.communicate()
