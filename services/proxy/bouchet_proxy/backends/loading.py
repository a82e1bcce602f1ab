"""Waiting for LiteLLM, which takes seconds to load: streams get pings, other requests are asked to come again."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from bouchet_proxy.asgi import ClientDisconnectedError
from bouchet_proxy.errors import still_loading
from bouchet_proxy.streams.response_writer import ResponseWriter

Loaded = TypeVar("Loaded")

# until the first ping of a stream that waits, and between the following ones
FIRST_PING_S, PING_S = 1.0, 5.0
# a request without a stream waits no longer: clients give up after 60 s or more
PATIENCE_S = 30.0


async def wait_until_loaded(loading: asyncio.Task[Loaded], writer: ResponseWriter, *, streams: bool) -> Loaded:
    """Return what was loaded. The task goes on where the client leaves.

    Raises ProxyError when it takes long, ClientDisconnectedError, and what the task has raised.
    """
    waited_s = 0.0
    while not loading.done():
        if not streams and waited_s >= PATIENCE_S:
            raise still_loading()
        if streams and waited_s:
            await writer.start_events()
            await writer.ping()
        pause_s = PING_S if waited_s else FIRST_PING_S
        await asyncio.wait((loading, writer.disconnected()), timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        waited_s += pause_s
        if writer.disconnected().done():
            raise ClientDisconnectedError
    return loading.result()
