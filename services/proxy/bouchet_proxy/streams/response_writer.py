"""Writes the response to one client, in its dialect, and notices when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable

from bouchet_proxy.asgi import Header, Message, Receive, Send, send_json, send_response
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.errors import ProxyError, error_body, status_for

from .error_events import error_events

STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx buffers answers by default
    (b"x-accel-buffering", b"no"),
)
PINGS = {
    Dialect.ANTHROPIC: b'event: ping\ndata: {"type": "ping"}\n\n',
    Dialect.OPENAI: b": ping\n\n",
    # Google's Python SDK takes a comment for a broken answer
    Dialect.GOOGLE: b"\n\n",
}


class ResponseWriter:
    """The client's end of one request. endpoint: None for a path that leads to no model; dialect: of the responses.

    streaming: the head of a streamed response has been sent. finished: the response is complete.
    """

    def __init__(self, dialect: Dialect, endpoint: Endpoint | None, receive: Receive, send: Send) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self._receive, self._send = receive, send
        self._disconnect: asyncio.Task[None] | None = None
        self.streaming = False
        self.finished = False

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send the head of a response whose body follows in pieces."""
        self.streaming = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers]})

    async def start_events(self, headers: Iterable[Header] = ()) -> None:
        """Send the head of an event stream, unless it has been sent."""
        if not self.streaming:
            await self.start(200, (*STREAM_HEADERS, *headers))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        await self._write_body(data)

    async def _write_body(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def ping(self) -> None:
        """Send a keep-alive ping in an event stream that is silent."""
        await self._write_body(PINGS[self.dialect])

    async def end(self, data: bytes) -> None:
        """Send the last piece of the body."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def send(self, status: int, body: bytes, headers: Iterable[Header]) -> None:
        """Send a whole response."""
        self.finished = True
        await send_response(self._send, status, body, headers)

    async def send_json(self, status: int, value: object, headers: Iterable[Header] = ()) -> None:
        """Send a whole response with a JSON body."""
        self.finished = True
        await send_json(self._send, status, value, headers)

    async def send_error(self, error: ProxyError, headers: Iterable[Header] = ()) -> None:
        """Send an error: as the whole response, or as the last event of a stream that has begun."""
        if self.streaming:
            await self.end(error_events(self.endpoint, self.dialect, error))
            return
        retry = [(b"retry-after", str(error.retry_after_s).encode())] if error.retry_after_s else []
        value = error_body(self.dialect, error)
        await self.send_json(status_for(self.dialect, error), value, [*retry, *error.headers, *headers])

    def disconnected(self) -> asyncio.Task[None]:
        """Return a task that is done when the client has disconnected; only after its body has been read."""
        if self._disconnect is None:
            self._disconnect = asyncio.get_running_loop().create_task(_wait_for_disconnect(self._receive))
        return self._disconnect

    async def disconnects_within(self, seconds: float) -> bool:
        """Wait that long, or until the client disconnects; return whether it has."""
        disconnected = self.disconnected()
        await asyncio.wait((disconnected,), timeout=seconds)
        return disconnected.done()

    async def receive(self) -> Message:
        """Wait for the disconnect: an ASGI `receive` for an app that watches the client itself."""
        await asyncio.shield(self.disconnected())
        return {"type": "http.disconnect"}

    def close(self) -> None:
        """Stop watching for the disconnect."""
        if self._disconnect is not None:
            self._disconnect.cancel()


async def run_until_disconnect(writer: ResponseWriter, work: Coroutine[None, None, None]) -> None:
    """Run the work, and cancel it when the client disconnects before its response is complete."""
    worker, has_left = asyncio.current_task(), False
    assert worker is not None

    def stop(_: asyncio.Task[None]) -> None:
        nonlocal has_left
        if not writer.finished:
            has_left = True
            worker.cancel()

    disconnected = writer.disconnected()
    disconnected.add_done_callback(stop)
    try:
        await work
    except asyncio.CancelledError:
        if not has_left or worker.uncancel() > 0:
            raise
    finally:
        disconnected.remove_done_callback(stop)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
