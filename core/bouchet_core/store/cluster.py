"""What is known of the cluster: jobs without a record, queries that fail, and the SSH connection's changes.

Keys (all under `bouchet:`):
    orphans   string  the last list of jobs without a record, as JSON
    epoch     string  made once; a different value means that Redis lost its data since
    outage    string  ClusterOutage as JSON; expires OUTAGE_TTL_S after the worker last renewed it
    tunnel    stream  one entry a change, newest TUNNEL_EVENTS_KEPT. It holds neither login questions nor responses.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import redis
from pydantic import TypeAdapter

from bouchet_core.deployments import ClusterOutage, Orphan
from bouchet_core.tunnel import TunnelEvent

from .records import PREFIX, mapped

OUTAGE_TTL_S = 120
TUNNEL_EVENTS_KEPT = 1000
TUNNEL_EVENTS = PREFIX + "tunnel"
_ORPHANS, _EPOCH, _OUTAGE = PREFIX + "orphans", PREFIX + "epoch", PREFIX + "outage"
_ORPHAN_LIST = TypeAdapter(tuple[Orphan, ...])
_FIRST = "0-0"


class OrphanStore:
    """Jobs without a record, as the worker listed them last. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def keep(self, orphans: Sequence[Orphan]) -> None:
        """Replace the last list."""
        with mapped():
            self._redis.set(_ORPHANS, _ORPHAN_LIST.dump_json(tuple(orphans)))

    def seen(self) -> tuple[Orphan, ...]:
        """Return the last list, empty before the first."""
        with mapped():
            body = cast("str | None", self._redis.get(_ORPHANS))
        return _ORPHAN_LIST.validate_json(body) if body else ()

    def epoch(self) -> str:
        """Return an id that stays the same until Redis loses its data."""
        with mapped():
            known = cast("str | None", self._redis.get(_EPOCH))
            if known is not None:
                return known
            self._redis.set(_EPOCH, uuid.uuid4().hex, nx=True)
            return cast("str", self._redis.get(_EPOCH))


class OutageStore:
    """The last failure to query the cluster. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def record(self, detail: str, now: datetime) -> None:
        """Store a failed query; an outage that is under way keeps its beginning."""
        known = self.current()
        outage = ClusterOutage(since=known.since if known else now, detail=detail)
        with mapped():
            self._redis.set(_OUTAGE, outage.model_dump_json(), ex=OUTAGE_TTL_S)

    def clear(self) -> None:
        """Remove the outage: all queries were answered."""
        with mapped():
            self._redis.delete(_OUTAGE)

    def current(self) -> ClusterOutage | None:
        """Return the outage, None while all queries are answered."""
        with mapped():
            body = cast("str | None", self._redis.get(_OUTAGE))
        return ClusterOutage.model_validate_json(body) if body else None


class TunnelStore:
    """Changes of the SSH connection, oldest first. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def append(self, event: TunnelEvent) -> None:
        """Append a change."""
        fields: dict[Any, Any] = {"body": event.model_dump_json()}
        with mapped():
            self._redis.xadd(TUNNEL_EVENTS, fields, maxlen=TUNNEL_EVENTS_KEPT, approximate=True)

    def last_event(self) -> str:
        """Return the id of the newest change, `0-0` before the first."""
        with mapped():
            newest = cast("list[tuple[str, Any]]", self._redis.xrevrange(TUNNEL_EVENTS, count=1))
        return newest[0][0] if newest else _FIRST

    def events(self, after: str) -> list[tuple[str, TunnelEvent]]:
        """Return ids and changes after that id."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrange(TUNNEL_EVENTS, f"({after}"))
        return [(identity, TunnelEvent.model_validate_json(fields["body"])) for identity, fields in entries]
