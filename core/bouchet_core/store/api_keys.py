"""API keys of the people who share the stack.

Keys in Redis:
    access:keys     hash    name -> ApiKey as JSON (its hash, not the key)
    access:changes  stream  one entry a change, so that readers need not poll
"""

from __future__ import annotations

from typing import Any, cast

import redis

from bouchet_core.errors import KeyNameTakenError, UnknownKeyError
from bouchet_core.keys import ApiKey

from .client import PREFIX, mapped
from .reading import Unreadable, read_or_skip, unreadable_of

_KEYS, _CHANGES = PREFIX + "access:keys", PREFIX + "access:changes"
CHANGES_KEPT = 100
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
