"""What happens to the tunnel, told to the store for whoever listens at the API. Questions and answers stay here."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Literal

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelEvent, TunnelState, TunnelStatus

log = logging.getLogger(__name__)

# while the store is away; older ones are nobody's news by then
MOST_WAITING = 100


class News:
    """Changes in a row, told one after the other. `note` never waits; `run` is the telling."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: asyncio.Queue[TunnelEvent] = asyncio.Queue()
        self._last: tuple[TunnelState, str, str] | None = None
        self._is_away = False

    def note(self, status: TunnelStatus) -> None:
        """Takes what is new about it; the tries of a long outage are not."""
        event = event_of(status)
        news = (event.state, event.detail, event.waits_for)
        was = self._last[0] if self._last else None
        if news == self._last or (event.state is TunnelState.CONNECTING and was is TunnelState.DOWN):
            return
        self._last = news
        while self._waiting.qsize() >= MOST_WAITING:
            self._waiting.get_nowait()
            self._waiting.task_done()
        self._waiting.put_nowait(event)

    async def run(self) -> None:
        """Tells until it is cancelled."""
        while True:
            event = await self._waiting.get()
            try:
                await asyncio.to_thread(self._store.tunnel.append, event)
                self._is_away = False
            except StoreUnavailableError as exc:
                if not self._is_away:
                    log.warning("events of the tunnel are not told: %s", exc)
                self._is_away = True
            finally:
                self._waiting.task_done()

    async def told(self, within_s: float) -> None:
        """Returns when all is told, or after within_s."""
        try:
            async with asyncio.timeout(within_s):
                await self._waiting.join()
        except TimeoutError:
            return


def event_of(status: TunnelStatus) -> TunnelEvent:
    """What others may know of it."""
    waits_for: Literal["", "prompt", "host_key"] = ""
    if status.prompt or status.host_key:
        waits_for = "prompt" if status.prompt else "host_key"
    return TunnelEvent(
        state=status.state, host=status.host, detail=status.detail, waits_for=waits_for, at=datetime.now(UTC)
    )
