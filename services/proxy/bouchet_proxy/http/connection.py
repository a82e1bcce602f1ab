"""A minimal HTTP/1.1 client over pooled connections: one request at a time, its response body in pieces.

Every event of every stream passes through here, so there is only the parser between the socket and the pieces.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

# unread bytes above which the server is paused
MAX_UNREAD_BYTES = 256 << 10


class TransportError(Exception):
    """The request failed below HTTP. The subclasses are those of httpx."""


class ConnectError(TransportError):
    """The server could not be reached, or closed before it answered. reused: on a connection that was used before."""

    def __init__(self, detail: str, reused: bool = False) -> None:
        self.reused = reused
        super().__init__(detail)


class RemoteProtocolError(TransportError):
    """The server closed in the middle of its response, or its response was not HTTP."""


class ReadTimeoutError(TransportError):
    """No data came for longer than the read timeout."""


class Connection(asyncio.Protocol):
    """One connection. status and headers (names in lower case) are those of the response that is being read."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: TransportError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._read_timeout_s, self._last_data_at = 0.0, 0.0
        self.request_count = 0
        self.closed = False
        self._reset_response()

    def _reset_response(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._unread_bytes, self._paused = 0, False
        self._has_head, self._complete, self._keep_alive = False, False, False
        self.status, self.headers = 0, dict[bytes, bytes]()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow; not on a paused connection, which would not notice its end."""
        return self._complete and not self.closed and self._keep_alive and not self._paused

    @property
    def complete(self) -> bool:
        """Whether the response has been received to its end."""
        return self._complete

    @property
    def silent_s(self) -> float:
        """How long the server has sent nothing; 0 when the response is complete, or waits here to be read."""
        return 0.0 if self._complete or self._paused else self._loop.time() - self._last_data_at

    def reset_request_count(self) -> None:
        """Forget the requests so far: the authentication of the server is no request of a client's."""
        self.request_count = 0

    # for the caller

    async def send(self, head: bytes, body: bytes, read_timeout_s: float) -> None:
        """Send a request and wait for the head of its response. Raises TransportError.

        read_timeout_s: how long the server may send nothing, until the end of the response.
        """
        if self._has_head:
            self._reset_response()
        self.request_count += 1
        if self._transport is None or self.closed:
            raise ConnectError("the connection was closed", self.request_count > 1)
        self._read_timeout_s, self._last_data_at = read_timeout_s, self._loop.time()
        self._timer = self._loop.call_later(read_timeout_s, self._check_timeout)
        _write_pieces(self._transport, head, body)
        while not self._has_head:
            await self._wait()

    async def read(self) -> bytes:
        """Return the bytes of the body since the last call, b'' at its end. Raises TransportError."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """Close at once; the server notices."""
        self.closed = True
        self._cancel_timer()
        if self._transport is not None:
            self._transport.abort()

    def lose(self, detail: str) -> None:
        """End as if the server had closed: it has ended, and no packet says so."""
        self._wake((RemoteProtocolError if self._has_head else ConnectError)(detail))
        self.close()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _check_timeout(self) -> None:
        """Check the read timeout: one timer per response, restarted when it fires and not for every event."""
        left_s = self._last_data_at + self._read_timeout_s - self._loop.time()
        if left_s <= 0:
            self._wake(ReadTimeoutError())
        else:
            self._timer = self._loop.call_later(left_s, self._check_timeout)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, error: TransportError | None = None) -> None:
        if error is not None and self._error is None:
            self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.Protocol."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Implement asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._wake(RemoteProtocolError(f"not HTTP: {exc}"))
            self.close()
            return
        self._last_data_at = self._loop.time()
        self._wake()
        if self._unread_bytes > MAX_UNREAD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.Protocol."""
        self.closed = True
        self._cancel_timer()
        if self._complete:
            return
        if not self._has_head:
            self._wake(ConnectError(str(exc or "the server closed the connection"), self.request_count > 1))
        elif self._ends_with_close():
            self._complete = True
            self._wake()
        else:
            self._wake(RemoteProtocolError(str(exc or "the server closed the connection")))

    def _ends_with_close(self) -> bool:
        """Return whether the close ends the response: it has neither a length nor chunks."""
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    # callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Implement httptools."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Implement httptools."""
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        """Implement httptools."""
        self._pieces.append(body)
        self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        """Implement httptools."""
        self._complete = True
        # asked here: after the message, the parser returns False for every response
        self._keep_alive = self._parser.should_keep_alive()
        self._cancel_timer()


def _write_pieces(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    """Write both, never an empty piece: asyncio would keep it buffered, and write nothing again and again."""
    if body:
        transport.writelines((head, body))
    else:
        transport.write(head)


def request_head(method: str, path: str, host: str, key: str, *more: str) -> bytes:
    """Return the head of a request. host: with its port. key: not sent if empty. more: further header lines."""
    authorization = (f"authorization: Bearer {key}",) if key else ()
    lines = (f"{method} {path} HTTP/1.1", f"host: {host}", *authorization, *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def post_head(path: str, host: str, key: str, length: int, *more: str) -> bytes:
    """Return the head of a POST request with that many bytes of JSON."""
    own = ("content-type: application/json", "accept: */*", f"content-length: {length}")
    return request_head("POST", path, host, key, *own, *more)
