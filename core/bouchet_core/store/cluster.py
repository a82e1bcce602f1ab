"""What is known of the cluster: jobs without a record, queries that fail, and the SSH connection's changes.

Keys (all under `bouchet:`):
    orphans   string  the last list of jobs without a record, as JSON
    epoch     string  made once; a different value means that Redis lost its data since
    outage    string  ClusterOutage as JSON; expires OUTAGE_TTL_S after the worker last renewed it
    tunnel    stream  one entry a change, newest TUNNEL_EVENTS_KEPT. It holds neither login questions nor responses.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import redis

from bouchet_core.deployments import ClusterOutage, Orphan
from bouchet_core.tunnel import TunnelEvent
from bouchet_core.values import FrozenModel

from .client import PREFIX, mapped
from .queries import Query, ask
from .reading import read_or_skip

OUTAGE_TTL_S = 120
TUNNEL_EVENTS_KEPT = 1000
TUNNEL_EVENTS = PREFIX + "tunnel"
_ORPHANS, _EPOCH, _OUTAGE = PREFIX + "orphans", PREFIX + "epoch", PREFIX + "outage"
_FIRST = "0-0"


class _OrphanList(FrozenModel):
    orphans: tuple[Orphan, ...]


class OrphanStore:
    """Jobs without a record, as the worker listed them last. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def keep(self, orphans: Sequence[Orphan]) -> None:
        """Replace the last list."""
        with mapped():
            self._redis.set(_ORPHANS, json.dumps([orphan.model_dump(mode="json") for orphan in orphans]))

    def seen(self) -> tuple[Orphan, ...]:
        """Return the last list, empty before the first; the worker makes it again at every step."""
        return ask(self._redis, self.seen_query())

    def seen_query(self) -> Query[tuple[Orphan, ...]]:
        """Return the query for it."""
        return Query([("GET", _ORPHANS)], lambda answers: _orphans(answers[0]))

    def epoch(self) -> str:
        """Return an id that stays the same until Redis loses its data."""
        return ask(self._redis, self.epoch_query())

    def epoch_query(self) -> Query[str]:
        """Return the query for it, which makes the id where there is none."""
        return Query([("GET", _EPOCH)], lambda answers: answers[0] or self._new_epoch())

    def _new_epoch(self) -> str:
        with mapped():
            self._redis.set(_EPOCH, uuid.uuid4().hex, nx=True)
            return cast("str", self._redis.get(_EPOCH))


def _orphans(body: str | None) -> tuple[Orphan, ...]:
    found = read_or_skip(_OrphanList, "list", "orphans", f'{{"orphans": {body}}}') if body else None
    return found.orphans if found else ()


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
        return read_or_skip(ClusterOutage, "outage", "of the cluster", body) if body else None


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
        """Return ids and changes after that id, without those that cannot be read."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrange(TUNNEL_EVENTS, f"({after}"))
        found = ((one, read_or_skip(TunnelEvent, "tunnel event", one, fields["body"])) for one, fields in entries)
        return [(identity, event) for identity, event in found if event is not None]
