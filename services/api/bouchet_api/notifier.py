"""One read that waits at Redis for all open event streams, instead of a thread and a connection for each."""

from __future__ import annotations

import asyncio
import logging

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store

# also how long a shutdown waits for the read to come back
READ_WAIT_S = 1.0
PAUSE_AFTER_FAILURE_S = 1.0
# streams look by themselves so often, should a ring be missed
LONGEST_WAIT_S = 5.0

log = logging.getLogger(__name__)


class Bell:
    """Rings when something has happened to a deployment or to the tunnel."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ring = asyncio.Event()

    @property
    def next_ring(self) -> asyncio.Event:
        """Set at the next ring. Take it before you look, wait for it after: nothing falls between."""
        return self._ring

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        after: tuple[str, str] | None = None
        while True:
            try:
                if after is None:
                    after = await asyncio.to_thread(self._newest)
                newest = await asyncio.to_thread(self._store.wait_for_news, after, READ_WAIT_S)
            except StoreUnavailableError as exc:
                log.warning("event streams wait: %s", exc)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
                continue
            if newest != after:
                after = newest
                self._ring.set()
                self._ring = asyncio.Event()

    def _newest(self) -> tuple[str, str]:
        return self._store.last_event(), self._store.tunnel.last_event()


async def wait_for_ring(ring: asyncio.Event) -> None:
    """Returns at the ring, or after LONGEST_WAIT_S."""
    try:
        await asyncio.wait_for(ring.wait(), LONGEST_WAIT_S)
    except TimeoutError:
        return
