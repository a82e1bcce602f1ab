"""Two transports joined: what one side says, the other hears, no faster than it listens.

The same class serves a TCP connection and an SSH channel, whose calls asyncssh shaped alike.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

# what a caller may send before its target is reached: more than most requests, little enough for hundreds of callers
EARLY_BYTES = 256 << 10


class Half(asyncio.Protocol):
    """One side of a pipe. Data that comes before `join` waits, bounded; `on_end` is called once, at the end.

    heard: bytes that this side has said.
    """

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self._on_end = on_end
        self._peer: Half | None = None
        self._early = bytearray()
        self.transport: asyncio.Transport | None = None
        self.spoke = asyncio.Event()
        self.ended = asyncio.Event()
        self.eof = False
        self.deaf = False
        self.heard = 0

    def join(self, peer: Half) -> None:
        """From now on both sides hear each other."""
        for half, other in ((self, peer), (peer, self)):
            half._peer = other
        for half, other in ((self, peer), (peer, self)):
            if half._early:
                other.write(bytes(half._early))
                half._early.clear()
            half.resume()
            if half.eof:
                other.finish()
            if half.ended.is_set():
                other.close()

    def write(self, data: bytes) -> None:
        """Sends to this side, unless it is closing."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def finish(self) -> None:
        """Tells this side that no more will come; it may still speak."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """Ends this side when everything sent to it is out."""
        if self.transport is not None:
            self.transport.close()

    def break_off(self) -> None:
        """Ends this side so that it sees an error, not a proper end: half an answer must not look whole."""
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def pause(self) -> None:
        """Stops listening to this side."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Listens to this side again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # called by asyncio and asyncssh

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def session_started(self) -> None:
        """Asyncssh says so; TCP does not."""

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        self.heard += len(data)
        peer = self._peer
        if peer is not None:
            peer.write(data)
            return
        self.spoke.set()
        if self.deaf:
            return
        self._early += data
        if len(self._early) >= EARLY_BYTES:
            self.pause()

    def eof_received(self) -> bool:
        self.eof = True
        self.spoke.set()
        if self._peer is not None:
            self._peer.finish()
            if self._peer.eof:
                self._peer.close()
                self.close()
        elif self.deaf:
            # both have said their last: it was refused, or its peer is gone
            self.close()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer.pause()

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        self.spoke.set()
        peer, self._peer = self._peer, None
        if peer is not None:
            peer._peer = None
            peer.deaf = True
            # a channel that ends with its connection brings the reason; one that was closed brings none
            (peer.break_off if exc is not None else peer.close)()
        self._on_end()
