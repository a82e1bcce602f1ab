"""How long a request waits for a model that is not ready or cannot be reached, and keep-alive pings meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from bouchet_core.deployments import Phase

from .asgi import ClientDisconnectedError
from .errors import ProxyError, unavailable
from .routing.table import LookupResult, NotReady, TableNotLoaded
from .streams.response_writer import ResponseWriter
from .usage.request import ActiveRequests

# a lost tunnel is back within a minute, or a person must log in again
TUNNEL_WAIT_S = 60.0
POLL_S, PING_S = 0.25, 10.0


class ReadinessWait:
    """The waiting time of one request, with pings to its client. A context manager: it counts the request as waiting.

    limit_s: the longest wait; 0 for a client that cannot be sent pings, because it did not ask for a stream.
    """

    def __init__(self, limit_s: float, active: ActiveRequests, writer: ResponseWriter) -> None:
        self._limit_s, self._active, self._writer = limit_s, active, writer
        self._started_at: float | None = None
        self._unreachable_since: float | None = None
        self._pinged_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started_at is not None:
            self._active.waiting -= 1

    @property
    def is_allowed(self) -> bool:
        """Whether the request may wait at all."""
        return self._limit_s > 0

    async def wait_for_model(self, found: LookupResult) -> None:
        """Wait one poll interval, or raise ProxyError if waiting cannot help or the time is up."""
        now = datetime.now(UTC)
        if not is_worth_waiting(found, now, self._limit_s):
            raise unavailable(found, now)
        self._unreachable_since = None
        await self._pause(unavailable(found, now))

    async def wait_for_tunnel(self, error: ProxyError) -> None:
        """Do the same for a ready model that cannot be reached; for TUNNEL_WAIT_S in a row at most."""
        now = asyncio.get_running_loop().time()
        self._unreachable_since = self._unreachable_since or now
        if now - self._unreachable_since >= min(TUNNEL_WAIT_S, self._limit_s):
            raise error
        await self._pause(error)

    async def _pause(self, error: ProxyError) -> None:
        now = asyncio.get_running_loop().time()
        if self._started_at is None:
            self._started_at = now
            self._active.waiting += 1
        if now - self._started_at >= self._limit_s:
            raise error
        await self._writer.start_events()
        if now - self._pinged_at >= PING_S or self._pinged_at == 0.0:
            self._pinged_at = now
            await self._writer.ping()
        if await self._writer.disconnects_within(POLL_S):
            raise ClientDisconnectedError


def is_worth_waiting(found: LookupResult, now: datetime, limit_s: float) -> bool:
    """Return whether the model may be ready within that time: not if Slurm expects it to start later."""
    if limit_s <= 0:
        return False
    if isinstance(found, TableNotLoaded):
        return True
    if not isinstance(found, NotReady) or found.phase in (Phase.DRAINING, Phase.ENDED):
        return False
    expected = found.start_estimate if found.phase is Phase.QUEUED else None
    return expected is None or expected - now <= timedelta(seconds=limit_s)
