"""uvicorn's HTTP protocol with a limit on the head of a request, which httptools does not have.

Without it, anybody who reaches the port fills the memory with headers: they are kept before a key is known.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES, MAX_HEADERS = 64 << 10, 100
# what is read and forgotten after a refusal, so that its answer arrives
LINGER_S, LINGER_BYTES = 1.0, 1 << 20
# the colon, the space and the end of the line
_LINE_OVERHEAD = 4
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b"
)
_MESSAGE = b"the request's headers exceed %d KiB or %d in number" % (MAX_HEAD_BYTES >> 10, MAX_HEADERS)


class _UntilClose(int):
    """A content length that no body reaches: the end of the connection is the end of the body."""

    def __lt__(self, other: object) -> bool:
        return False

    def __isub__(self, other: object) -> _UntilClose:
        return self

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class HeadTooLargeError(Exception):
    """A request's head exceeds a limit; raised through the parser, which stops."""


class BoundedHeadProtocol(HttpToolsProtocol):
    """Refuses a request whose head (or trailer) is too large, and closes.

    The parser reports a header only when it is complete, and keeps it until then. So bytes for which it reports nothing
    at all are counted, too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._too_large, self._reported = False, False
        self._head_bytes, self._header_count, self._unreported_bytes = 0, 0, 0
        self._discarded_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Implement asyncio.Protocol."""
        if self._too_large:
            self._discard(len(data))
            return
        self._reported = False
        super().data_received(data)
        self._unreported_bytes = 0 if self._reported else self._unreported_bytes + len(data)
        if self._unreported_bytes > MAX_HEAD_BYTES and not self._too_large:
            self._too_large = True
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be served, and close."""
        if self._too_large:
            self.transport.write(_TOO_LARGE % (len(_MESSAGE), _MESSAGE))
            # a connection that is closed over unread bytes is reset, and the client may never see the answer
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            super().send_400_response(msg)

    def _discard(self, size_bytes: int) -> None:
        self._discarded_bytes += size_bytes
        if self._discarded_bytes > LINGER_BYTES:
            self.transport.close()

    # callbacks of the parser

    def on_message_begin(self) -> None:
        """Implement httptools."""
        super().on_message_begin()
        self._reported = True
        self._head_bytes, self._header_count = 0, 0

    def on_url(self, url: bytes) -> None:
        """Implement httptools."""
        self._count(len(url))
        super().on_url(url)

    def on_headers_complete(self) -> None:
        """Implement httptools. An answer to HTTP/1.0 ends with the connection: chunks came with 1.1."""
        super().on_headers_complete()
        if self.scope.get("http_version") == "1.0" and self.cycle is not None:
            self.cycle.chunked_encoding, self.cycle.expected_content_length = False, _UntilClose()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Implement httptools."""
        self._header_count += 1
        self._count(len(name) + len(value) + _LINE_OVERHEAD)
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Implement httptools."""
        self._reported = True
        super().on_body(body)

    def _count(self, size_bytes: int) -> None:
        self._reported = True
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES or self._header_count > MAX_HEADERS:
            self._too_large = True
            raise HeadTooLargeError
