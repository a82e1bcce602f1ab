"""Publishes changes of the tunnel to the store, from where the API streams them. Prompts and answers are left out."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Literal

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelEvent, TunnelState, TunnelStatus

log = logging.getLogger(__name__)

# events kept while the store does not answer; the oldest are dropped
MAX_QUEUED = 100


class TunnelEventPublisher:
    """Queues tunnel events and writes them to the store in order. `publish` never waits; `run` does the writing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: asyncio.Queue[TunnelEvent] = asyncio.Queue()
        self._last: tuple[TunnelState, str, str] | None = None
        self._store_is_down = False

    def publish(self, status: TunnelStatus) -> None:
        """Enqueue an event if the status has changed; the repeated attempts of a long outage are one change."""
        event = event_of(status)
        change = (event.state, event.detail, event.waits_for)
        last_state = self._last[0] if self._last else None
        if change == self._last or (event.state is TunnelState.CONNECTING and last_state is TunnelState.DOWN):
            return
        self._last = change
        while self._queue.qsize() >= MAX_QUEUED:
            self._queue.get_nowait()
            self._queue.task_done()
        self._queue.put_nowait(event)

    async def run(self) -> None:
        """Write queued events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await asyncio.to_thread(self._store.tunnel.append, event)
                self._store_is_down = False
            except StoreUnavailableError as exc:
                if not self._store_is_down:
                    log.warning("tunnel events cannot be published: %s", exc)
                self._store_is_down = True
            finally:
                self._queue.task_done()

    async def drain(self, timeout_s: float) -> None:
        """Wait until all queued events are written, at most timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue.join()
        except TimeoutError:
            return


def event_of(status: TunnelStatus) -> TunnelEvent:
    """Return the public part of a status, as an event of now."""
    waits_for: Literal["", "prompt", "host_key"] = ""
    if status.prompt or status.host_key:
        waits_for = "prompt" if status.prompt else "host_key"
    return TunnelEvent(
        state=status.state, host=status.host, detail=status.detail, waits_for=waits_for, at=datetime.now(UTC)
    )
