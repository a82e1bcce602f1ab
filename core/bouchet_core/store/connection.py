"""Connections to Redis, and its errors in our words. The prefix of every key stands here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from bouchet_core.errors import StoreUnavailableError

PREFIX = "bouchet:"
SOCKET_TIMEOUT_S = 5.0


def open_client(
    host: str, port: int, password: str | None, *, decode_responses: bool, protocol: int | None = None
) -> redis.Redis:
    """Return a pool of connections; nothing is sent before the first call. `protocol`: RESP version, None for any."""
    return redis.Redis(
        host=host,
        port=port,
        password=password,
        decode_responses=decode_responses,
        protocol=protocol,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=30,
        # a pooled connection may be dead after Redis restarted; the library's own default waits seconds
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), retries=2),
    )


@contextmanager
def mapped() -> Iterator[None]:
    """Errors of Redis become StoreUnavailableError."""
    try:
        yield
    except redis.RedisError as exc:
        raise StoreUnavailableError(str(exc)) from exc


def evaluate(client: redis.Redis, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
    """What a Lua script answers: all its changes happen, or none."""
    with mapped():
        return client.eval(script, len(keys), *keys, *arguments)


def bodies(client: redis.Redis, records: Sequence[str]) -> list[str]:
    """The field `body` of these hashes, in one round trip; hashes that are gone are left out."""
    if not records:
        return []
    with mapped():
        pipe = client.pipeline(transaction=False)
        for key in records:
            pipe.hget(key, "body")
        return [body for body in pipe.execute() if body]
