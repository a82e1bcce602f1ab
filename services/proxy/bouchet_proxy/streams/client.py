"""The client's end of one request: the way to it, in its dialect, and how far its answer has come."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable

from bouchet_proxy.asgi import Header, Message, Receive, Send, answer_bytes, answer_json
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint, dialect_of
from bouchet_proxy.errors import Failure, error_body, status_in

from .filters import failure_events

STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
_PINGS = {Dialect.ANTHROPIC: b'event: ping\ndata: {"type": "ping"}\n\n', Dialect.OPENAI: b": ping\n\n"}


class Client:
    """Who waits for an answer. endpoint: None for what is no endpoint; path decides the dialect."""

    def __init__(self, path: str, endpoint: Endpoint | None, receive: Receive, send: Send) -> None:
        self.endpoint, self.dialect = endpoint, dialect_of(path)
        self._receive, self._send = receive, send
        self._gone: asyncio.Task[None] | None = None
        self.streaming = False
        self.answered = False

    @property
    def begun(self) -> bool:
        """Whether it has been sent anything."""
        return self.streaming or self.answered

    async def open_stream(self, headers: Iterable[Header] = ()) -> None:
        """The head of a stream; it is sent once."""
        if not self.streaming:
            self.streaming = True
            head = [*STREAM_HEADERS, *headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})

    async def write(self, data: bytes) -> None:
        """More of a stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def ping(self) -> None:
        """A sign of life in a stream that is silent."""
        await self.write(_PINGS[self.dialect])

    async def end(self, data: bytes) -> None:
        """The last of a stream."""
        self.answered = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, body: bytes, headers: Iterable[Header]) -> None:
        """A whole answer."""
        self.answered = True
        await answer_bytes(self._send, status, body, headers)

    async def answer_json(self, status: int, value: object, headers: Iterable[Header] = ()) -> None:
        """A whole answer."""
        self.answered = True
        await answer_json(self._send, status, value, headers)

    async def fail(self, failure: Failure, headers: Iterable[Header] = ()) -> None:
        """Ends with an error: as the answer itself, or as the last event of a stream that has begun."""
        if self.streaming:
            await self.end(failure_events(self.endpoint, self.dialect, failure))
            return
        again = [(b"retry-after", str(failure.retry_after_s).encode())] if failure.retry_after_s else []
        value = error_body(self.dialect, failure)
        await self.answer_json(status_in(self.dialect, failure), value, [*again, *headers])

    def gone(self) -> asyncio.Task[None]:
        """Done when the client has left. To be asked for when its request has been read."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_task(_disconnected(self._receive))
        return self._gone

    async def left_within(self, seconds: float) -> bool:
        """Waits that long, or until the client has left; says whether it has."""
        gone = self.gone()
        await asyncio.wait((gone,), timeout=seconds)
        return gone.done()

    async def receive(self) -> Message:
        """An ASGI `receive` for those who would ask after the client themselves."""
        await asyncio.shield(self.gone())
        return {"type": "http.disconnect"}

    def close(self) -> None:
        """Nobody asks after it any more."""
        if self._gone is not None:
            self._gone.cancel()


async def while_there(client: Client, work: Coroutine[None, None, None]) -> None:
    """Does the work, and stops it when the client leaves before its answer is out."""
    worker, left = asyncio.current_task(), False
    assert worker is not None

    def stop(_: asyncio.Task[None]) -> None:
        nonlocal left
        if not client.answered:
            left = True
            worker.cancel()

    gone = client.gone()
    gone.add_done_callback(stop)
    try:
        await work
    except asyncio.CancelledError:
        if not left or worker.uncancel() > 0:
            raise
    finally:
        gone.remove_done_callback(stop)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
