"""Who is let in: API keys of the people who share the stack, and sessions of browsers that were signed out.

Keys in Redis:
    access:keys        hash        name -> ApiKey as JSON (its hash, not the key)
    access:changes     stream      one entry a change, so that readers need not poll
    access:signed-out  sorted set  id of a session -> when it would have ended; removed after that
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import redis

from bouchet_core.errors import KeyNameTakenError, UnknownKeyError
from bouchet_core.keys import ApiKey

from .client import PREFIX, mapped
from .reading import Unreadable, read_or_skip, unreadable_of

_KEYS, _CHANGES, _SIGNED_OUT = PREFIX + "access:keys", PREFIX + "access:changes", PREFIX + "access:signed-out"
CHANGES_KEPT = 100
# of these, those that would end first are dropped at last
SIGN_OUTS_KEPT = 10_000
FIRST_CHANGE = "0-0"


class ApiKeyStore:
    """All keys except the owner's. Methods raise RecordError subclasses or StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, key: ApiKey) -> None:
        """Store a new key, or raise KeyNameTakenError."""
        with mapped():
            made = self._redis.hsetnx(_KEYS, key.name, key.model_dump_json())
        if not made:
            raise KeyNameTakenError(key.name)
        self._changed(key.name)

    def revoke(self, name: str) -> ApiKey | None:
        """Remove a key and return it, None if its record cannot be read; or raise UnknownKeyError."""
        with mapped():
            pipe = self._redis.pipeline(transaction=True)
            pipe.hget(_KEYS, name)
            pipe.hdel(_KEYS, name)
            body, _ = pipe.execute()
        if body is None:
            raise UnknownKeyError(name)
        self._changed(name)
        return read_or_skip(ApiKey, "key", name, body)

    def all(self) -> list[ApiKey]:
        """Return all keys that can be read, oldest first. The others open nothing until they can be read again."""
        found = (read_or_skip(ApiKey, "key", name, body) for name, body in self._bodies())
        return sorted((key for key in found if key is not None), key=lambda key: key.created_at)

    def unreadable(self) -> list[Unreadable]:
        """Return the keys that this version cannot read."""
        return unreadable_of(ApiKey, "key", self._bodies())

    def last_change(self) -> str:
        """Return the id of the newest change, FIRST_CHANGE if there is none."""
        with mapped():
            newest = cast("list[tuple[str, Any]]", self._redis.xrevrange(_CHANGES, count=1))
        return newest[0][0] if newest else FIRST_CHANGE

    def wait_for_change(self, after: str, wait_s: float) -> None:
        """Wait for a change after that one, at most wait_s, which must stay below SOCKET_TIMEOUT_S."""
        with mapped():
            self._redis.xread({_CHANGES: after}, count=1, block=int(wait_s * 1000))

    def _bodies(self) -> list[tuple[str, str]]:
        with mapped():
            return sorted(cast("dict[str, str]", self._redis.hgetall(_KEYS)).items())

    def _changed(self, name: str) -> None:
        with mapped():
            self._redis.xadd(_CHANGES, {"name": name}, maxlen=CHANGES_KEPT, approximate=True)


class SignOutStore:
    """Sessions of browsers that were signed out. Methods raise StoreError subclasses."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, sessions: Mapping[str, int], now: float) -> None:
        """Keep these, with the Unix times of their ends; remove those that are over."""
        with mapped():
            pipe = self._redis.pipeline(transaction=True)
            pipe.zadd(_SIGNED_OUT, cast("Any", dict(sessions)))
            pipe.zremrangebyscore(_SIGNED_OUT, "-inf", now)
            pipe.zremrangebyrank(_SIGNED_OUT, 0, -SIGN_OUTS_KEPT - 1)
            pipe.execute()

    def all(self) -> dict[str, int]:
        """Return those that are kept, with the Unix times of their ends."""
        with mapped():
            found = cast("list[tuple[str, float]]", self._redis.zrange(_SIGNED_OUT, 0, -1, withscores=True))
        return {identity: int(ends_at) for identity, ends_at in found}
