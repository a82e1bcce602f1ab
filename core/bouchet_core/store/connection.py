"""The Redis client, its errors mapped to the store's, and the prefix of every key."""

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
    """Return a client with a connection pool; nothing is sent before the first call. protocol: RESP version."""
    return redis.Redis(
        host=host,
        port=port,
        password=password,
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
    """Map Redis errors to StoreUnavailableError."""
    try:
        yield
    except redis.RedisError as exc:
        raise StoreUnavailableError(str(exc)) from exc


def evaluate(client: redis.Redis, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
    """Run a Lua script and return its result: all its changes happen, or none."""
    with mapped():
        return client.eval(script, len(keys), *keys, *arguments)
