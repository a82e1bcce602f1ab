"""Bidirectional relay with back-pressure between a TCP connection and an SSH channel."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

# what a client may send before its target is connected: more than most requests
MAX_EARLY_BYTES = 256 << 10
# an event loop reads up to 256 KiB at once, which may begin one byte below the limit
EARLY_RESERVATION = MAX_EARLY_BYTES + (256 << 10)

# what is read of a client for which no memory is left
FIRST_READ_BYTES = 2 << 10


class EarlyBudget:
    """The memory for what clients of all slots send before their targets are connected. total: in bytes."""

    def __init__(self, total: int) -> None:
        self._free = total

    def reserve(self) -> bool:
        """Take the share of one client; return whether there was one left."""
        if self._free < EARLY_RESERVATION:
            return False
        self._free -= EARLY_RESERVATION
        return True

    def release(self) -> None:
        """Give the share of one client back."""
        self._free += EARLY_RESERVATION


class RelayEnd(asyncio.Protocol):
    """One end of a relay, for asyncio and for asyncssh, whose sessions have the same callbacks.

    Data that arrives before `join` is buffered, up to MAX_EARLY_BYTES. on_end: called once, when the connection ends.
    budget: from which that memory is taken; a client for which none is left is read by a FirstReader until `join`.
    """

    def __init__(self, on_end: Callable[[], None] = lambda: None, budget: EarlyBudget | None = None) -> None:
        self._on_end, self._budget = on_end, budget
        self._has_share = budget is not None and budget.reserve()
        self._first_reader = FirstReader(self) if budget is not None and not self._has_share else None
        self._peer: RelayEnd | None = None
        self._early = bytearray()
        self.transport: asyncio.Transport | None = None
        # set at the first data, at EOF, and at the end
        self.has_data = asyncio.Event()
        self.ended = asyncio.Event()
        self.eof = False
        # received data is dropped: the client was refused, or the peer is gone
        self.discarding = False
        self.bytes_received = 0

    @property
    def protocol(self) -> asyncio.BaseProtocol:
        """The protocol for a new connection of this end."""
        return self._first_reader or self

    def join(self, peer: RelayEnd) -> None:
        """Connect both ends, and pass on what arrived before."""
        for end, other in ((self, peer), (peer, self)):
            end._peer = other
        for end, other in ((self, peer), (peer, self)):
            if end._early:
                other.write(bytes(end._early))
            end._release_early()
            end.resume()
            if end.eof:
                other.finish()
            if end.ended.is_set():
                other.close()

    def discard(self) -> None:
        """Drop what this end has sent and goes on sending."""
        self.discarding = True
        self._release_early()
        self.resume()

    def write(self, data: bytes) -> None:
        """Send to this end, unless it is closing."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def finish(self) -> None:
        """Send EOF to this end, which may go on sending."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """Close this end when all pending data is sent."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Close this end with an error (TCP RST): a truncated answer must not look complete."""
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def pause(self) -> None:
        """Stop reading from this end."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read from this end again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # callbacks of asyncio and asyncssh

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport (asyncio) or the channel (asyncssh)."""
        self.transport = transport  # type: ignore[assignment]

    def session_started(self) -> None:
        """Do nothing; asyncssh calls this, TCP has no such event."""

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Write the data to the peer, or buffer it."""
        self.bytes_received += len(data)
        peer = self._peer
        if peer is not None:
            peer.write(data)
            return
        self.has_data.set()
        if self.discarding:
            return
        self._early += data
        if len(self._early) >= MAX_EARLY_BYTES or self._first_reader is not None:
            self.pause()

    def eof_received(self) -> bool:
        """Pass EOF on to the peer; close both ends when both directions have sent it."""
        self.eof = True
        self.has_data.set()
        if self._peer is not None:
            self._peer.finish()
            if self._peer.eof:
                self._peer.close()
                self.close()
        elif self.discarding:
            # what there was to send to this end has been sent
            self.close()
        return True

    def pause_writing(self) -> None:
        """Stop reading from the peer while this end's send buffer is full."""
        if self._peer is not None:
            self._peer.pause()

    def resume_writing(self) -> None:
        """Read from the peer again."""
        if self._peer is not None:
            self._peer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the peer too, with a reset when this end broke."""
        self.ended.set()
        self.has_data.set()
        self._release_early()
        peer, self._peer = self._peer, None
        if peer is not None:
            peer._peer = None
            peer.discarding = True
            # a channel that ends with its connection has an exception; one that was closed has none
            (peer.reset if exc is not None else peer.close)()
        self._on_end()

    def _release_early(self) -> None:
        """Give the memory back, and read as usual from now on."""
        self._early = bytearray()
        if self._has_share and self._budget is not None:
            self._budget.release()
        if self._first_reader is not None and self.transport is not None and not self.transport.is_closing():
            # uvloop chooses how to read when reading begins
            self.pause()
            self.transport.set_protocol(self)
        self._has_share, self._first_reader = False, None


class FirstReader(asyncio.BufferedProtocol):
    """Reads the first FIRST_READ_BYTES of a client for its RelayEnd, which then pauses.

    Pausing alone is not enough: uvloop begins to read after `connection_made`, whatever was paused in it.
    """

    def __init__(self, end: RelayEnd) -> None:
        self._end = end
        self._buffer = bytearray(FIRST_READ_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the transport on."""
        self._end.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the small buffer, whatever the size that is asked for."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass the data on."""
        self._end.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        """Pass EOF on."""
        return self._end.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on."""
        self._end.connection_lost(exc)
