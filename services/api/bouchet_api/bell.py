"""One read that waits at Redis for all open event streams, instead of a thread and a connection for each."""

from __future__ import annotations

import asyncio
import logging

from bouchet_core.errors import StoreUnavailable
from bouchet_core.store import Store

# also how long a shutdown waits for the read to come back
READ_WAIT_S = 1.0
PAUSE_AFTER_FAILURE_S = 1.0
# streams look by themselves so often, should a ring be missed
LONGEST_WAIT_S = 5.0

log = logging.getLogger(__name__)


class Bell:
    """Rings when the event stream has grown."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ring = asyncio.Event()

    @property
    def next_ring(self) -> asyncio.Event:
        """Set at the next ring. Take it before you look, wait for it after: nothing falls between."""
        return self._ring

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        after: str | None = None
        while True:
            try:
                if after is None:
                    after = await asyncio.to_thread(self._store.last_event)
                events = await asyncio.to_thread(self._store.events, after, READ_WAIT_S)
            except StoreUnavailable as exc:
                log.warning("event streams wait: %s", exc)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
                continue
            if events:
                after = events[-1].id
                self._ring.set()
                self._ring = asyncio.Event()


async def wait_for_ring(ring: asyncio.Event) -> None:
    """Returns at the ring, or after LONGEST_WAIT_S."""
    try:
        await asyncio.wait_for(ring.wait(), LONGEST_WAIT_S)
    except TimeoutError:
        return
