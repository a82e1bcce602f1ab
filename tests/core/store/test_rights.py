"""Rights in Redis: each service's user does what its code does and nothing else, and an error names the command.

That the rights suffice is tested by the services' own tests, which log in as them.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import redis
from bouchet_core.errors import StoreRefusedError, StoreUnavailableError
from bouchet_core.store import RedisLogin, Store
from bouchet_core.store.load import LoadReport
from rq import Queue

from setup.files.redis_acl import USERS, render_acl
from tests.conftest import RedisServer, free_port
from tests.core.store.test_deployments import deployment
from tests.fakes.redis_attacks import MUST_NOT
from tests.waiting import wait_for


@contextlib.contextmanager
def connected(server: RedisServer, user: str) -> Iterator[redis.Redis]:
    """Log in as that user, without the store's own errors."""
    with redis.Redis(port=server.port, username=user, password=server.password) as client:
        yield client


def test_every_user_is_attacked() -> None:
    assert set(MUST_NOT) == set(USERS)


@pytest.mark.parametrize("user", MUST_NOT)
def test_user_must_not_do_what_other_services_do(redis_server: RedisServer, user: str) -> None:
    with connected(redis_server, user) as client, connected(redis_server, "default") as all_seeing:
        before = all_seeing.dbsize()
        for command in MUST_NOT[user]:
            with pytest.raises(redis.ResponseError, match=r"permission|user executing the script|not allowed"):
                client.execute_command(*command)  # type: ignore[no-untyped-call]
        assert all_seeing.dbsize() == before == 0
        assert client.ping()


@pytest.mark.parametrize(
    ("user", "password"), [("proxy", "wrong"), ("unknown", "secret"), (None, "wrong"), (None, None)]
)
def test_login_with_another_password_or_none_is_refused(
    redis_server: RedisServer, user: str | None, password: str | None
) -> None:
    store = Store.connect(RedisLogin("127.0.0.1", redis_server.port, password, user))
    with contextlib.closing(store), pytest.raises(StoreUnavailableError):
        store.ping()


@pytest.mark.parametrize(("user", "command"), [("gateway", "SMEMBERS"), ("proxy", "EVAL"), ("health", "EVAL")])
def test_store_without_the_right_names_the_command(redis_server: RedisServer, user: str, command: str) -> None:
    with contextlib.closing(redis_server.store(user)) as store, pytest.raises(StoreRefusedError) as caught:
        store.live() if command == "SMEMBERS" else store.create(deployment("aa"))
    assert caught.value.command == command and caught.value.kind == "store_refused"
    assert f"Redis refuses {command}" in str(caught.value) and "redis_acl.py" in str(caught.value)


def test_queue_without_the_right_raises_store_refused(redis_server: RedisServer) -> None:
    with contextlib.closing(redis_server.store("proxy")) as store:
        tasks = Queue("tasks", connection=store.queue_connection(), serializer="json")
        with contextlib.closing(tasks.connection), pytest.raises(StoreRefusedError), Store.errors_mapped():
            tasks.enqueue("subprocess.getoutput", "id")


def test_rights_suffice_for_load_and_demand(redis_server: RedisServer) -> None:
    now = datetime.now(UTC)
    closing = contextlib.closing
    with closing(redis_server.store("proxy")) as proxy, closing(redis_server.store("worker")) as own:
        proxy.load.report(LoadReport(at=now))
        proxy.load.want("aa", now)
        assert proxy.load.current() == own.load.current() == LoadReport(at=now)
        assert list(own.load.demand()) == ["aa"]
        newest = own.load.last_demand()
        assert own.load.wait_for_demand(newest, 0.05) == newest
        assert own.load.wait_for_demand("0-0", 0.05) == newest != "0-0"
        own.load.forget_demand(now + timedelta(days=1))
        assert own.load.demand() == {}


@pytest.mark.slow
def test_acl_file_on_data_of_an_older_version_keeps_every_record(tmp_path: Path) -> None:
    def started(*lines: str) -> subprocess.Popen[bytes]:
        (tmp_path / "redis.conf").write_text("\n".join((f"port {port}", f"dir {tmp_path}", "appendonly yes", *lines)))
        return subprocess.Popen(["redis-server", str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)

    def answers(login: RedisLogin) -> bool:
        with contextlib.suppress(StoreUnavailableError), contextlib.closing(Store.connect(login)) as store:
            store.ping()
            return True
        return False

    port = free_port()
    old, new = RedisLogin("127.0.0.1", port, "shared"), RedisLogin("127.0.0.1", port, "own", "worker")
    (tmp_path / "users.acl").write_text(render_acl(dict.fromkeys(USERS, "own")))
    for lines, login, other in (("requirepass shared",), old, new), ((f"aclfile {tmp_path}/users.acl",), new, old):
        process = started(*lines)
        try:
            wait_for(partial(answers, login), 30)
            assert not answers(other)
            with contextlib.closing(Store.connect(login)) as store:
                if login is old:
                    store.create(deployment("aa"))
                assert [record.id for record in store.live()] == ["aa"]
        finally:
            process.terminate()
            process.wait(timeout=30)
