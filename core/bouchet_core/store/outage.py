"""What the worker could not learn when it looked at the cluster last.

Keys (all under `bouchet:`):
    unasked   string  ClusterOutage as JSON; there while questions stay without an answer, and gone TTL_S after the worker
"""

from __future__ import annotations

from datetime import datetime
from typing import cast

import redis

from bouchet_core.deployments import ClusterOutage

from .connection import PREFIX, mapped

TTL_S = 120
_UNASKED = PREFIX + "outage"


class OutageStore:
    """How far the worker sees. Raises StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def lost(self, detail: str, now: datetime) -> None:
        """Says what could not be asked; since when is kept from the first time on."""
        known = self.current()
        told = ClusterOutage(since=known.since if known else now, detail=detail)
        with mapped():
            self._redis.set(_UNASKED, told.model_dump_json(), ex=TTL_S)

    def clear(self) -> None:
        """Everything was answered."""
        with mapped():
            self._redis.delete(_UNASKED)

    def current(self) -> ClusterOutage | None:
        """What could not be asked, None while all is answered."""
        with mapped():
            body = cast("str | None", self._redis.get(_UNASKED))
        return ClusterOutage.model_validate_json(body) if body else None
