"""HTTP/1.1 to a slot over kept connections, as little of it as the lane needs: one POST at a time, its body in pieces.

Every event of every stream passes here, so there is nothing between the socket and the pieces but the parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import httptools

# bytes that may lie here unread before the server is asked to wait
MOST_UNREAD = 256 << 10


class WireError(Exception):
    """The exchange with the server failed."""


class NoConnection(WireError):
    """It could not be reached, or hung up before it answered. `reused`: on a connection that had served before."""

    def __init__(self, detail: str, reused: bool = False) -> None:
        self.reused = reused
        super().__init__(detail)


class BrokenOff(WireError):
    """It hung up in the middle of its answer, or answered in no HTTP."""


class Silent(WireError):
    """Nothing came for longer than was allowed."""


class Wire(asyncio.Protocol):
    """One connection. status and headers (names in lower case) are those of the answer that is being read."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: WireError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._silence_s, self._heard_at = 0.0, 0.0
        self.served = 0
        self.closed = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._unread, self._paused = 0, False
        self._has_head, self._complete, self._may_follow = False, False, False
        self.status, self.headers = 0, dict[bytes, bytes]()

    @property
    def kept(self) -> bool:
        """Whether another request may follow."""
        return self._complete and not self.closed and self._may_follow

    def renew(self) -> None:
        """As if it had never served: what came until now was no request of anybody's."""
        self.served = 0

    # for those who ask

    async def post(self, head: bytes, body: bytes, silence_s: float) -> None:
        """Sends a request and waits for the head of its answer. silence_s: how long the server may say nothing."""
        if self._has_head:
            self._begin()
        self.served += 1
        if self._transport is None or self.closed:
            raise NoConnection("the connection was closed", self.served > 1)
        self._silence_s, self._heard_at = silence_s, self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._look)
        self._transport.writelines((head, body))
        while not self._has_head:
            await self._more()

    async def read(self) -> bytes:
        """What has come since the last time, b'' at the end."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._more()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """Hangs up at once; the server notices."""
        self.closed = True
        self._quiet()
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _look(self) -> None:
        """One timer an answer, set anew when it runs out and not with every event."""
        left_s = self._heard_at + self._silence_s - self._loop.time()
        if left_s <= 0:
            self._wake(Silent())
        else:
            self._timer = self._loop.call_later(left_s, self._look)

    def _quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, error: WireError | None = None) -> None:
        if error is not None and self._error is None:
            self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        # uvloop's are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._wake(BrokenOff(f"no HTTP: {exc}"))
            self.close()
            return
        self._heard_at = self._loop.time()
        self._wake()
        if self._unread > MOST_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self.closed = True
        self._quiet()
        if self._complete:
            return
        if not self._has_head:
            self._wake(NoConnection(str(exc or "the server hung up"), self.served > 1))
        elif self._until_close():
            self._complete = True
            self._wake()
        else:
            self._wake(BrokenOff(str(exc or "the server hung up")))

    def _until_close(self) -> bool:
        """Whether the answer ends with the connection: it names neither a length nor chunks."""
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    # what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """httptools."""
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        """httptools."""
        self._pieces.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        """httptools."""
        self._complete = True
        # asked now: once the parser has gone past the message, it says no of every answer
        self._may_follow = self._parser.should_keep_alive()
        self._quiet()


# host, port, and whose server is behind it
Place = tuple[str, int, str]


class Pool:
    """Connections that wait for their next request. keep_s: how long; the server must not be the first to hang up."""

    def __init__(self, keep_s: float, connect_s: float) -> None:
        self._keep_s, self._connect_s = keep_s, connect_s
        self._idle: dict[Place, list[tuple[Wire, float]]] = {}

    def kept(self, place: Place) -> Wire | None:
        """A connection that waits."""
        idle, now = self._idle.get(place, []), asyncio.get_running_loop().time()
        while idle:
            wire, since = idle.pop()
            if not wire.closed and now - since < self._keep_s:
                return wire
            wire.close()
        self._idle.pop(place, None)
        return None

    def has(self, place: Place) -> bool:
        """Whether a connection waits."""
        now = asyncio.get_running_loop().time()
        return any(not wire.closed and now - since < self._keep_s for wire, since in self._idle.get(place, []))

    async def connect(self, host: str, port: int) -> Wire:
        """A new connection."""
        try:
            async with asyncio.timeout(self._connect_s):
                _, wire = await asyncio.get_running_loop().create_connection(Wire, host, port)
        except (OSError, TimeoutError) as exc:
            raise NoConnection(str(exc)) from exc
        return wire

    def give(self, place: Place, wire: Wire) -> None:
        """The connection back, when its answer has been read; else it is closed."""
        if not wire.kept:
            wire.close()
            return
        idle = self._idle.setdefault(place, [])
        now = asyncio.get_running_loop().time()
        for old, _ in (stale := [one for one in idle if now - one[1] >= self._keep_s]):
            old.close()
        idle[:] = [one for one in idle if one not in stale]
        idle.append((wire, now))

    def close(self) -> None:
        """Hangs up everywhere."""
        for wire, _ in [one for idle in self._idle.values() for one in idle]:
            wire.close()
        self._idle.clear()


def post_head(host: str, port: int, path: str, key: str, length: int) -> bytes:
    """The head of a request with that many bytes of JSON."""
    lines: Iterable[str] = (
        f"POST {path} HTTP/1.1",
        f"host: {host}:{port}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        "accept: */*",
        f"content-length: {length}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
