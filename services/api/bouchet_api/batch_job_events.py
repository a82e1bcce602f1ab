"""The changes of one batch job (a download, an image build) as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from bouchet_core.errors import BouchetError
from bouchet_core.store import BatchJobStore
from fastapi.sse import ServerSentEvent

from .problems import problem_of

EVENTS_EVERY_S = 0.5


async def changes_of(records: BatchJobStore[Any], identity: str, after: str) -> AsyncIterator[ServerSentEvent]:
    """Every change later than that event; ends when the batch job has. What fails on the way is a `problem`."""
    try:
        async for message in _changes(records, identity, after):
            yield message
    except BouchetError as exc:
        yield ServerSentEvent(event="problem", data=problem_of(exc))


async def _changes(records: BatchJobStore[Any], identity: str, after: str) -> AsyncIterator[ServerSentEvent]:
    while True:
        # asked before reading: an end that comes later than this also comes as an event later than this
        over = not (await asyncio.to_thread(records.get, identity)).is_live
        events = await asyncio.to_thread(records.events, after, identity)
        for event in events:
            after = event.id
            yield ServerSentEvent(id=event.id, data=event.batch_job)
        if not events:
            if over:
                return
            await asyncio.sleep(EVENTS_EVERY_S)
