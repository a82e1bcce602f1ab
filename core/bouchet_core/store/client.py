"""The Redis client, its errors, and how answers of Redis are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from bouchet_core.errors import StoreRefusedError, StoreUnavailableError

PREFIX = "bouchet:"
SOCKET_TIMEOUT_S = 5.0
# how Redis 7.0, and 7.2 and newer, begin the error for a command in a script
REFUSED_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")


@dataclass(frozen=True)
class RedisLogin:
    """Where Redis listens, and as whom to log in: the services have a user each, with rights of its own."""

    host: str
    port: int
    password: str | None = field(default=None, repr=False)
    user: str | None = None


class _Client(redis.Redis):
    """A client whose errors about missing rights name the command: Redis does so only if all its keys are allowed."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as exc:
            if isinstance(exc, NoPermissionError) or str(exc).startswith(REFUSED_IN_SCRIPT):
                raise NoPermissionError(str(args[0]), str(exc)) from exc
            raise


def open_client(login: RedisLogin, *, decode_responses: bool, protocol: int | None = None) -> redis.Redis:
    """Return a client with a connection pool; nothing is sent before the first call. protocol: RESP version."""
    return _Client(
        host=login.host,
        port=login.port,
        username=login.user,
        password=login.password,
        decode_responses=decode_responses,
        protocol=protocol,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=30,
        # a pooled connection may be dead after Redis restarted; the library's default retry waits for seconds
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), retries=2),
    )


@contextmanager
def mapped() -> Iterator[None]:
    """Map Redis errors to StoreRefusedError and StoreUnavailableError."""
    try:
        yield
    except NoPermissionError as exc:
        command, detail = exc.args if len(exc.args) == 2 else ("a command", exc.args[0])
        raise StoreRefusedError(str(command), str(detail)) from exc
    except redis.RedisError as exc:
        raise StoreUnavailableError(str(exc)) from exc


def evaluate(client: redis.Redis, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
    """Run a Lua script and return its result: all its changes happen, or none."""
    with mapped():
        return client.eval(script, len(keys), *keys, *arguments)


def stream_entries(answer: Any, stream: str) -> list[tuple[str, dict[str, str]]]:
    """Return XREAD's entries of one stream: RESP3 answers with a mapping to pages, RESP2 with a list of pairs."""
    if not answer:
        return []
    pages = {key: value[0] for key, value in answer.items()} if isinstance(answer, dict) else dict(answer)
    return cast("list[tuple[str, dict[str, str]]]", pages.get(stream, []))
