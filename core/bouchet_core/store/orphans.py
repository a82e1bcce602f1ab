"""Jobs without a record, as the worker saw them last; and by what a worker notices that Redis was emptied.

Keys (all under `bouchet:`):
    orphans   string  the jobs of the last look, as a JSON list
    epoch     string  made once; another value means that everything here was lost since
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import cast

import redis
from pydantic import TypeAdapter

from bouchet_core.deployments import Orphan

from .connection import PREFIX, mapped

_ORPHANS, _EPOCH = PREFIX + "orphans", PREFIX + "epoch"
_LIST = TypeAdapter(tuple[Orphan, ...])


class OrphanStore:
    """What the last look found. Raises StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def keep(self, orphans: Sequence[Orphan]) -> None:
        """Replaces what was seen before."""
        with mapped():
            self._redis.set(_ORPHANS, _LIST.dump_json(tuple(orphans)))

    def seen(self) -> tuple[Orphan, ...]:
        """The jobs of the last look, none before the first."""
        with mapped():
            body = cast("str | None", self._redis.get(_ORPHANS))
        return _LIST.validate_json(body) if body else ()

    def epoch(self) -> str:
        """The same word as long as Redis keeps what it was told."""
        with mapped():
            known = cast("str | None", self._redis.get(_EPOCH))
            if known is not None:
                return known
            self._redis.set(_EPOCH, uuid.uuid4().hex, nx=True)
            return cast("str", self._redis.get(_EPOCH))
