"""Sessions that were signed out: after a restart, while Redis is away, and with a stream open."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from bouchet_api.dashboard import sign_outs as sign_outs_module
from bouchet_api.dashboard.sessions import SESSION_S, TOKEN_HEADER, SessionBook, SessionUncheckedError
from bouchet_api.dashboard.sign_outs import SignOuts
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.store import Store
from bouchet_core.store.api_keys import SIGN_OUTS_KEPT

from tests.conftest import RedisServer, start_redis
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import ADMIN_KEY, RunningApi, running
from tests.waiting import wait_for

NOW = 1_800_000_000


def test_sign_outs_are_bounded_and_leave_when_their_sessions_are_over(store: Store) -> None:
    store.sign_outs.add({"over": NOW - 1}, NOW - 10)
    store.sign_outs.add({"open": NOW + 5}, NOW)
    assert store.sign_outs.all() == {"open": NOW + 5}
    store.sign_outs.add({str(n): NOW + 10 + n for n in range(SIGN_OUTS_KEPT)}, NOW)
    kept = store.sign_outs.all()
    assert len(kept) == SIGN_OUTS_KEPT and "open" not in kept


def started(redis: RedisServer) -> contextlib.closing[Store]:
    """Return the store of an API over that Redis, with its rights."""
    return contextlib.closing(redis.store("api"))


def stopped(redis: RedisServer) -> None:
    """End a Redis; what it was given stays in its file."""
    redis.process.terminate()
    redis.process.wait(timeout=30)


@contextlib.contextmanager
def started_again(redis: RedisServer) -> Iterator[subprocess.Popen[bytes]]:
    """Start a Redis that was stopped, over its data."""
    again = start_redis(redis.directory, redis.port)
    try:
        yield again.process
    finally:
        again.process.kill()
        again.process.wait()


def test_signed_out_session_stays_so_after_a_restart(redis_server: RedisServer) -> None:
    with started(redis_server) as store:
        first = SessionBook("key", SignOuts(store.sign_outs))
        kept, left = first.open_with_key("key"), first.open_with_key("key")
        session = first.check(left)
        assert session is not None and first.close(session) and first.check(left) is None
    with started(redis_server) as store:
        second = SessionBook("key", SignOuts(store.sign_outs))
        assert second.check(left) is None and second.check(kept) is not None


def test_redis_that_is_away_believes_no_session_of_before_and_keeps_those_of_now(redis_server: RedisServer) -> None:
    with started(redis_server) as store:
        old = SessionBook("key", SignOuts(store.sign_outs)).open_with_key("key")
    stopped(redis_server)
    with started(redis_server) as store:
        book = SessionBook("key", SignOuts(store.sign_outs))
        for _ in range(2):
            with pytest.raises(SessionUncheckedError, match="cannot be checked yet"):
                book.check(old)
        assert book.check(book.open_with_key("key")) is not None
        assert book.check(old + "0") is None, "a forged one is refused without Redis"


def test_sign_out_while_redis_is_away_holds_and_is_written_once_it_is_back(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_outs_module, "RETRY_S", 0.1)
    with started(redis_server) as store:
        sign_outs = SignOuts(store.sign_outs)
        book = SessionBook("key", sign_outs)
        cookies = [book.open_with_key("key") for _ in range(3)]
        stopped(redis_server)
        for cookie in cookies:
            session = book.check(cookie)
            assert session is not None and not book.close(session) and book.check(cookie) is None
        with started_again(redis_server), started(redis_server) as other:
            wait_for(lambda: len(other.sign_outs.all()) == 3)
            again = SessionBook("key", SignOuts(other.sign_outs))
            assert [again.check(cookie) for cookie in cookies] == [None] * 3
            sign_outs.close()


def test_last_sign_outs_are_written_when_the_api_stops(redis_server: RedisServer) -> None:
    with started(redis_server) as store:
        sign_outs = SignOuts(store.sign_outs, lambda: NOW)
        stopped(redis_server)
        assert not sign_outs.add("a", NOW + SESSION_S)
        with started_again(redis_server):
            sign_outs.close()
            assert store.sign_outs.all() == {"a": NOW + SESSION_S}


def browser(api: RunningApi, cookies: httpx.Cookies | None = None) -> httpx.Client:
    """Return a browser with these cookies."""
    headers = {"Origin": api.url}
    return httpx.Client(base_url=api.url, headers=headers, cookies=cookies, timeout=60, trust_env=False, verify=NO_TLS)


def signed_in(client: httpx.Client) -> str:
    """Sign in and return the token."""
    return str(client.post("/v1/session", json={"key": ADMIN_KEY}).raise_for_status().json()["token"])


def test_api_that_starts_again_without_redis_says_why_it_believes_no_session(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_outs_module, "RETRY_S", 0.1)
    with FakeGateway() as gateway:
        with running(tmp_path, redis_server, gateway) as api, browser(api) as client:
            port = int(api.url.rpartition(":")[2])
            signed_in(client)
            cookies = client.cookies
            stopped(redis_server)
        with running(tmp_path, redis_server, gateway, port=port) as api, browser(api, cookies) as client:
            for path in ("/v1/session", "/v1/keys"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["kind"]) == (503, "session_unchecked")
            assert client.get("/").status_code == 200, "the page itself needs no session"
            with browser(api, cookies) as new:
                signed_in(new)
                assert new.get("/v1/session").json()["signed_in"] is True
            with started_again(redis_server):
                wait_for(lambda: client.get("/v1/session").status_code == 200)
                assert client.get("/v1/session").json()["signed_in"] is True


def test_sign_out_while_redis_is_away_says_so(tmp_path: Path, redis_server: RedisServer) -> None:
    with FakeGateway() as gateway, running(tmp_path, redis_server, gateway) as api, browser(api) as client:
        token = signed_in(client)
        with browser(api, client.cookies) as copy:
            stopped(redis_server)
            left = client.delete("/v1/session", headers={TOKEN_HEADER: token}).raise_for_status().json()
            assert left["signed_in"] is False and "Redis does not answer" in left["note"]
            assert copy.get("/v1/keys").status_code == 401


def test_stream_of_a_session_ends_with_it(live_api: RunningApi) -> None:
    with browser(live_api) as client, browser(live_api) as copy:
        token = signed_in(client)
        copy.cookies.update(client.cookies)
        ended = threading.Event()
        with copy.stream("GET", "/v1/live") as stream:
            lines = stream.iter_lines()
            assert "history" in next(lines)

            def read_on() -> None:
                for _ in lines:
                    pass
                ended.set()

            reader = threading.Thread(target=read_on)
            reader.start()
            client.delete("/v1/session", headers={TOKEN_HEADER: token}).raise_for_status()
            # what changes next is not sent any more; without a change, the next ping is not
            live_api.gateway.ask("p1", "Passcode:")
            reader.join(timeout=30)
            assert ended.is_set()
        assert copy.get("/v1/live").status_code == 401
        # a program's stream has no session, and goes on
        with client.stream("GET", "/v1/live", headers={"x-api-key": ADMIN_KEY}) as stream:
            assert "history" in next(stream.iter_lines())
