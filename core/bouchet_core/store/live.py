"""What the dashboard shows of running jobs and open requests, and whether anybody looks.

Keys in Redis (all under `bouchet:`):
    watched        string  set by the API while a page or `bouchet top` is open; expires WATCHED_S after the last time
    awaited        string  likewise, while a program such as `bouchet launch` waits for a record to change
    points         stream  one entry a reading: FigurePoints of all jobs, as JSON; newest POINTS_KEPT, at most an hour
    live-requests  string  LiveRequests as JSON; written while anybody looks, expires REQUESTS_TTL_S later

All are bounded: by the readings of an hour, by the gateway's slots, and by the requests that are listed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, cast

import redis

from bouchet_core.live import FigurePoint, LiveRequests
from bouchet_core.values import FrozenModel

from .client import PREFIX, mapped
from .queries import Query
from .reading import read_or_skip

WATCHED_S = 12
# how often that note is renewed, however often such a program asks
NOTE_EVERY_S = 4.0
HISTORY_S = 3600
# one reading in 5 s, for an hour
POINTS_KEPT = 720
REQUESTS_TTL_S = 6
_WATCHED, _AWAITED = PREFIX + "watched", PREFIX + "awaited"
_POINTS, _REQUESTS = PREFIX + "points", PREFIX + "live-requests"


class _Points(FrozenModel):
    points: tuple[FigurePoint, ...]


class LiveStore:
    """Live figures and requests. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._noted_at = float("-inf")

    def watch(self) -> None:
        """Note that the page is looked at, for the next WATCHED_S seconds."""
        with mapped():
            self._redis.set(_WATCHED, "1", ex=WATCHED_S)

    def is_watched(self) -> bool:
        """Return whether anybody looks."""
        with mapped():
            return self._redis.get(_WATCHED) is not None

    def note_awaited(self) -> None:
        """Note that a record's next change is waited for, for the next WATCHED_S seconds."""
        if time.monotonic() - self._noted_at >= NOTE_EVERY_S:
            with mapped():
                self._redis.set(_AWAITED, "1", ex=WATCHED_S)
            self._noted_at = time.monotonic()

    def awaited_query(self) -> Query[bool]:
        """Return the query for whether anybody watches, or waits for a change."""
        return Query([("EXISTS", _WATCHED, _AWAITED)], lambda answers: bool(answers[0]))

    def add_points(self, points: Sequence[FigurePoint]) -> None:
        """Append one reading of all jobs; the oldest ones are dropped."""
        fields: dict[Any, Any] = {"points": _dump(points)}
        with mapped():
            self._redis.xadd(_POINTS, fields, maxlen=POINTS_KEPT, approximate=False)

    def points(self, after: str, now: float) -> tuple[str, list[FigurePoint]]:
        """Return the id of the last reading, and the points of those after that id and within the last hour.

        after: an id that this returned, or "" for all. now: Unix time.
        """
        oldest = f"{int((now - HISTORY_S) * 1000)}-0"
        with mapped():
            begin = f"({after}" if after else oldest
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrange(_POINTS, begin))
        read = [read_or_skip(_Points, "figures", one, f'{{"points": {fields["points"]}}}') for one, fields in entries]
        points = [point for part in read if part is not None for point in part.points]
        return (entries[-1][0] if entries else after), points

    def report_requests(self, report: LiveRequests) -> None:
        """Replace the list of open requests."""
        with mapped():
            self._redis.set(_REQUESTS, report.model_dump_json(exclude_defaults=True), ex=REQUESTS_TTL_S)

    def requests(self) -> LiveRequests | None:
        """Return the open requests, None if the proxy has not listed them for REQUESTS_TTL_S."""
        with mapped():
            body = cast("str | None", self._redis.get(_REQUESTS))
        return read_or_skip(LiveRequests, "list", "of open requests", body) if body else None


def _dump(points: Sequence[FigurePoint]) -> str:
    return json.dumps([point.model_dump(exclude_none=True) for point in points], separators=(",", ":"))
