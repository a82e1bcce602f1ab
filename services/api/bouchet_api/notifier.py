"""Notification of event streams: one blocking XREAD shared by all of them, instead of a thread for each."""

from __future__ import annotations

import asyncio
import logging

from bouchet_core.errors import StoreError
from bouchet_core.store import Store

# also the longest time that a shutdown waits for the pending read
READ_WAIT_S = 1.0
PAUSE_AFTER_FAILURE_S = 1.0
# streams read at least this often, so that a missed notification only delays them
LONGEST_WAIT_S = 5.0

log = logging.getLogger(__name__)


class EventNotifier:
    """Wakes waiting streams when a deployment or the tunnel has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = asyncio.Event()

    @property
    def next_change(self) -> asyncio.Event:
        """The event that the next change sets; get it before reading, so that no change is missed."""
        return self._next

    async def watch(self) -> None:
        """Read the change streams until cancelled.

        While Redis does not answer, the streams wait and the read is tried again.
        """
        after: tuple[str, str] | None = None
        while True:
            try:
                if after is None:
                    after = await asyncio.to_thread(self._last_ids)
                newest = await asyncio.to_thread(self._store.wait_for_events, after, READ_WAIT_S)
            except StoreError as exc:
                log.warning("event streams are paused: %s", exc)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
                continue
            if newest != after:
                after = newest
                self._next.set()
                self._next = asyncio.Event()

    def _last_ids(self) -> tuple[str, str]:
        return self._store.last_event(), self._store.tunnel.last_event()


async def wait_for_change(change: asyncio.Event) -> None:
    """Return when the event is set, or after LONGEST_WAIT_S seconds."""
    try:
        await asyncio.wait_for(change.wait(), LONGEST_WAIT_S)
    except TimeoutError:
        return
