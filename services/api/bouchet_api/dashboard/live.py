"""What an open dashboard shows, read once for all pages: while none is open, nothing is read and nothing runs.

A page gets the parts that have changed; one that reads slowly misses what was replaced meanwhile, and grows nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError, GatewayError
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.store import Store
from bouchet_core.tasks import HEARTBEAT

from bouchet_api.notifier import EventNotifier

log = logging.getLogger(__name__)

TICK_S = 1.0
# without an event, records are read again in these intervals: a queue estimate changes without one
RECORDS_S = 5.0
# well before the note in Redis expires
RENEW_S = 4.0
# A page hears this clock also while nothing changes: it tells a silent connection from a quiet cluster, and its own
# clock from this one. static/main.js waits three times as long.
CLOCK_S = 10.0
ENDED_WITHIN = timedelta(hours=12)
MOST_ENDED, MOST_EVENTS = 6, 60
# what no page shows, and most of a record's size
LEFT_OUT: dict[str, Any] = {
    "entry": True,
    "pins": True,
    "jobs": {"__all__": {"command", "arguments", "submission", "software", "weights", "sealed_key"}},
}


class LiveView:
    """Reads what pages show, and hands it to all of them. One for each API."""

    def __init__(self, store: Store, gateway: GatewayClient, notifier: EventNotifier) -> None:
        self._store, self._gateway, self._notifier = store, gateway, notifier
        self._pages: set[_Page] = set()
        self._task: asyncio.Task[None] | None = None
        self._parts: dict[str, str] = {}
        self._after = ""
        self._renewed_at = self._read_at = self._clock_at = float("-inf")

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    @property
    def is_running(self) -> bool:
        """Whether anything is read: while a page is open, and for a moment after the last one."""
        return self._task is not None and not self._task.done()

    async def watch(self) -> AsyncIterator[tuple[str, str]]:
        """Yield (part, JSON): all parts at first, then those that change, until the page is closed."""
        points = await asyncio.to_thread(self._read_points_before)
        page = _Page()
        page.put(_clock())
        if self._pages:
            page.put(self._parts)
        else:
            # what the last page was sent may be seconds old
            self._parts, self._read_at = {}, float("-inf")
        self._pages.add(page)
        if not self.is_running:
            self._task = asyncio.create_task(self._run())
        try:
            yield "history", points
            while True:
                for part, text in (await page.take()).items():
                    yield part, text
        finally:
            self._pages.discard(page)

    async def _run(self) -> None:
        self._after, self._renewed_at, self._read_at = "", float("-inf"), float("-inf")
        while self._pages:
            change = self._notifier.next_change
            try:
                found = await asyncio.to_thread(self._read)
            except Exception as exc:
                if not isinstance(exc, BouchetError):
                    log.exception("the dashboard's parts cannot be read")
                found = {"problem": json.dumps({"detail": str(exc), "kind": getattr(exc, "kind", "internal")})}
            new = {part: text for part, text in found.items() if self._parts.get(part) != text}
            self._parts = {**self._parts, **new}
            now = time.monotonic()
            if now - self._clock_at >= CLOCK_S:
                self._clock_at, new = now, new | _clock()
            for page in self._pages:
                page.put(new)
            if await _is_set_within(change, TICK_S):
                self._read_at = float("-inf")
        self._parts = {}

    def _read(self) -> dict[str, str]:
        """Return the parts that were read now. Runs in a thread; raises StoreError."""
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_S:
            self._store.live_view.watch()
            self._renewed_at = now
        found = {"problem": "null"}
        if now - self._read_at >= RECORDS_S:
            self._read_at = now
            found["status"] = self._read_status()
        requests = self._store.live_view.requests()
        found["requests"] = requests.model_dump_json(exclude_defaults=True) if requests is not None else "null"
        self._after, points = self._store.live_view.points(self._after or self._newest_before(), time.time())
        if points:
            found["points"] = json.dumps([point.model_dump(exclude_none=True) for point in points])
        return found

    def _newest_before(self) -> str:
        """Return the id after which points are new: those before are in every page's history."""
        return f"{int(time.time() * 1000) - int(TICK_S * 1000)}-0"

    def _read_points_before(self) -> str:
        """Return all points of the last hour, as JSON."""
        _, points = self._store.live_view.points("", time.time())
        return json.dumps([point.model_dump(exclude_none=True) for point in points])

    def _read_status(self) -> str:
        now = datetime.now(UTC)
        live = self._store.live()[::-1]
        ended = self._store.ended_since(now - ENDED_WITHIN)[:MOST_ENDED]
        load, outage = self._store.load.current(), self._store.outage.current()
        tunnel, tunnel_error = self._read_tunnel()
        return json.dumps(
            {
                "deployments": [_shown(record) for record in live],
                "ended": [_shown(record) for record in ended],
                "tunnel": tunnel,
                "tunnel_error": tunnel_error,
                "outage": outage.model_dump(mode="json") if outage else None,
                "orphans": len(self._store.orphans.seen()),
                "worker": self._store.beats(HEARTBEAT),
                "proxy": None if load is None else {"open": sum(job.open for job in load.jobs.values())},
                "events": [event.model_dump(mode="json") for event in self._store.latest_events(MOST_EVENTS)],
            },
            default=dict,
        )

    def _read_tunnel(self) -> tuple[dict[str, Any] | None, str | None]:
        try:
            status = self._gateway.status()
        except GatewayError as exc:
            return None, str(exc)
        # of these two, each reading differs
        return status.model_dump(mode="json", exclude={"bytes_up", "bytes_down"}), None


class _Page:
    """The parts that one page has not been sent yet, the last value of each."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}
        self._has_some = asyncio.Event()

    def put(self, parts: dict[str, str]) -> None:
        """Add parts; a part that was not sent yet is replaced."""
        if parts:
            self._waiting.update(parts)
            self._has_some.set()

    async def take(self) -> dict[str, str]:
        """Wait for parts, and return all that wait."""
        await self._has_some.wait()
        self._has_some.clear()
        found, self._waiting = self._waiting, {}
        return found


def _clock() -> dict[str, str]:
    """Return the part with the time here, Unix seconds."""
    return {"clock": f"{time.time():.2f}"}


def _shown(record: Deployment) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude=LEFT_OUT)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
