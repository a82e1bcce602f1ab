"""Fewer packets, fewer system calls and less work for each packet on an SSH connection that is logged in.

asyncssh sends an empty MSG_IGNORE before every packet, each with its own system call. RFC 4251 (9.3.1) recommends that
against CBC ciphers, which are not offered here (config_files.CIPHERS). It also checks every packet for dozens of cases
that do not occur on a forward. Here the data packets of the forwards' channels, in and out, are handled directly; any
other packet, and any that is not as expected, is left to asyncssh. docs/adr/0017-ssh-fast-path.md has the figures.

asyncssh has no option for any of this, so some methods of the one connection are replaced; switch.py has the versions
of asyncssh that this was written for.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable
from typing import Any

from .gcm import BLOCK_BYTES, MAC_BYTES, CachedGcm, cached_gcm

MSG_IGNORE = 2
WINDOW_ADJUST = 93
CHANNEL_DATA = 94
_LENGTH = struct.Struct(">I")
# padding length, message type, channel, length of the data (or bytes added to the window); then data and padding
_HEAD = struct.Struct(">BBII")
_HEAD_BYTES, _MIN_PADDING = _HEAD.size, 4
# packets of this size are delivered at once, consecutive ones together; smaller ones are collected first
_LARGE = 4096
_CLOSED = frozenset({"close_pending", "closed"})
_TIMER_TOLERANCE_S = 0.001


class _NoLog:
    """Replaces asyncssh's packet log, which formats its lines even when logging is off."""

    def log_sent_packet(self, *_: Any) -> None:
        """Do nothing."""


_NO_LOG = _NoLog()


class FastPath:
    """The replaced methods of one connection (asyncssh.SSHClientConnection), from creation until `end`."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._now = self._loop.time
        self.channels: dict[int, Any] = {}
        self._pending: list[bytes] = []
        self._last_channel: Any = None
        self._received_at = self._now()
        self._padding = os.urandom(_MIN_PADDING + BLOCK_BYTES)
        self._send_packet, self._recv_packet = connection.send_packet, connection._recv_pkthdr
        self._forget_channel, self._keepalive_due = connection.remove_channel, connection._keepalive_timer_callback
        self._recv = self._recv_data_packets
        self._replaced: dict[str, Callable[..., Any]] = {
            "send_packet": self._send_unless_ignored,
            "_send": self._send_soon,
            "data_received": self._data_received,
            "_recv_pkthdr": self._recv,
            "remove_channel": self._remove_channel,
            "_reset_keepalive_timer": self._note_received,
            "_keepalive_timer_callback": self._on_keepalive_timer,
        }
        connection.__dict__.update(self._replaced, fast_path=self)
        if connection._recv_handler == self._recv_packet:
            connection._recv_handler = self._recv
        self._update_transport()

    def end(self) -> None:
        """Send what is pending and restore asyncssh's methods, for a disconnect must not wait."""
        self._flush()
        for name in (*self._replaced, "fast_path"):
            self._connection.__dict__.pop(name, None)
        self._replaced, self.channels = {}, {}
        if self._connection._recv_handler is self._recv:
            self._connection._recv_handler = self._recv_packet
        self._update_transport()

    def add_channel(self, channel: Any) -> None:
        """Handle the data packets of that channel directly, and log none of its packets."""
        write = channel.write

        def write_directly(data: bytes) -> None:
            most = channel._send_pktsize
            while len(data) > most and self._send_data(channel, data[:most]):
                data = data[most:]
            if not self._send_data(channel, data):
                write(data)

        channel.log_received_packet = _NO_LOG.log_sent_packet
        channel.write = write_directly
        self.channels[channel._recv_chan] = channel

    def _remove_channel(self, number: int) -> None:
        self.channels.pop(number, None)
        self._forget_channel(number)

    def _update_transport(self) -> None:
        """Let a TCP transport look up the method that it calls again; an SSH channel or a program keeps none."""
        set_protocol = getattr(self._connection._transport, "set_protocol", None)
        if set_protocol is not None:
            set_protocol(self._connection)

    # keepalive

    def _note_received(self) -> None:
        """Store the time of the last packet; asyncssh cancels a timer and starts another for each."""
        self._received_at = self._now()
        if self._connection._keepalive_timer is None:
            self._connection._set_keepalive_timer()

    def _on_keepalive_timer(self) -> None:
        connection = self._connection
        left = self._received_at + connection._keepalive_interval - self._now()
        if left > _TIMER_TOLERANCE_S:
            connection._keepalive_timer = self._loop.call_later(left, self._on_keepalive_timer)
        else:
            self._keepalive_due()

    # sending

    def _send_unless_ignored(self, kind: int, *parts: bytes, handler: Any = None) -> None:
        # the only use of the handler is to log the packet
        if kind != MSG_IGNORE:
            cached_gcm(self._connection._send_encryption)
            self._send_packet(kind, *parts, handler=_NO_LOG)

    def _send_soon(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def _flush(self) -> None:
        if self._pending:
            transport = self._connection._transport
            if transport is not None:
                transport.write(b"".join(self._pending))
            self._pending.clear()

    def _send_data(self, channel: Any, data: bytes) -> bool:
        """Send the data in one packet; return False, with nothing done, when asyncssh has to handle it."""
        size = len(data)
        if not 0 < size <= channel._send_window or size > channel._send_pktsize or channel._send_buf:
            return False
        cipher = self._sending_cipher(channel)
        if cipher is None:
            return False
        channel._send_window -= size
        self._append_packet(cipher, CHANNEL_DATA, channel, size, data)
        # a channel that sends alone need not wait for what others send in this turn of the loop
        if self._last_channel is channel:
            self._flush()
        elif len(self._pending) == 2:
            self._loop.call_soon(self._flush)
        self._last_channel = channel
        return True

    def _open_window(self, channel: Any) -> bool:
        """Let the server send a whole window again; return False, with nothing done, when asyncssh has to handle it."""
        cipher = self._sending_cipher(channel)
        if cipher is None:
            return False
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._append_packet(cipher, WINDOW_ADJUST, channel, channel._init_recv_window - channel._recv_window)
        channel._recv_window = channel._init_recv_window
        return True

    def _sending_cipher(self, channel: Any) -> CachedGcm | None:
        """Return the cipher, if a packet of that channel may be sent without asyncssh."""
        connection = self._connection
        if (
            not self._replaced
            or channel._send_state != "open"
            or connection._compressor
            or not connection._kex_complete
            or connection._rekey_bytes_sent >= connection._rekey_bytes
            or (connection._rekey_seconds and time.monotonic() >= connection._rekey_time)
        ):
            return None
        return cached_gcm(connection._send_encryption)

    def _append_packet(self, cipher: CachedGcm, kind: int, channel: Any, number: int, data: bytes = b"") -> None:
        """Encrypt one packet and append it to the pending ones."""
        connection = self._connection
        padding = -(_HEAD_BYTES + _MIN_PADDING + len(data)) % BLOCK_BYTES + _MIN_PADDING
        packet = b"".join((_HEAD.pack(padding, kind, channel._send_chan, number), data, self._padding[:padding]))
        length = _LENGTH.pack(len(packet))
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet)
        self._pending += (length, cipher.encrypt(length, packet))

    # receiving

    def _data_received(self, data: bytes, _: Any = None) -> None:
        """Replace asyncssh's `data_received`, which gets what is left."""
        connection = self._connection
        self._received_at = self._now()
        connection._inpbuf = connection._inpbuf + data if connection._inpbuf else data
        left_to_asyncssh = True
        if connection._recv_handler is self._recv:
            try:
                left_to_asyncssh = self._take_data_packets()
            except Exception:
                connection.internal_error()
                return
        if left_to_asyncssh:
            connection._recv_data()

    def _recv_data_packets(self) -> bool:
        """Replace asyncssh's `_recv_pkthdr`, which gets what is left; return whether there may be more to read."""
        left_to_asyncssh = self._take_data_packets()
        return left_to_asyncssh and self._connection._transport is not None and bool(self._recv_packet())

    def _take_data_packets(self) -> bool:
        """Deliver complete data packets up to the first other one; return whether asyncssh has to read what follows.

        Small ones are all decrypted first and delivered then: one by one would cost more CPU, since each delivery is a
        system call that evicts Python from the processor's cache.
        """
        connection, channels = self._connection, self.channels
        cipher = cached_gcm(connection._recv_encryption)
        if cipher is None or not connection._auth_complete or connection._decompressor is not None:
            return True
        received, at, left_to_asyncssh = connection._inpbuf, 0, False
        total = len(received)
        small: dict[Any, list[bytes]] = {}
        while at < total:
            header, end = _packet_end(received, at)
            if end > total:
                # asyncssh refuses a packet over the maximum length at once, without its rest
                left_to_asyncssh = end - at > connection._max_recv_pktlen
                break
            if end - at > _LARGE:
                # deliver the small ones now, while they are in the cache
                self._deliver_all(small)
                begun, at = at, self._take_large_packets(cipher, received, at)
                left_to_asyncssh = at == begun
                if left_to_asyncssh:
                    break
                continue
            packet = cipher.peek(header, received[at + 4 : end]) if end - at > 2 * BLOCK_BYTES else None
            channel, size = _channel_data(packet, len(packet), channels) if packet is not None else (None, 0)
            if packet is None or channel is None:
                left_to_asyncssh = True
                break
            self._accept(cipher, channel, size)
            at = end
            small.setdefault(channel, []).append(packet[_HEAD_BYTES : _HEAD_BYTES + size])
        connection._inpbuf = received[at:]
        self._deliver_all(small)
        return left_to_asyncssh

    def _take_large_packets(self, cipher: CachedGcm, received: bytes, at: int) -> int:
        """Deliver the consecutive large data packets from `at`; return where they end, `at` if there is none.

        Each is decrypted so that its data directly follow those of the packet before: its head overwrites the end of
        those for a moment. So what one channel receives is delivered in one piece without a copy.
        """
        total = len(received)
        clear, encrypted = bytearray(total - at), memoryview(received)
        buffer = memoryview(clear)
        pieces: list[tuple[Any, int]] = []
        to = _HEAD_BYTES
        while at < total:
            header, end = _packet_end(received, at)
            if end > total or end - at <= _LARGE:
                break
            start, size = to - _HEAD_BYTES, end - at - len(header) - MAC_BYTES
            overwritten = clear[start:to]
            valid = cipher.peek_into(buffer[start : start + size], header, encrypted[at + 4 : end])
            channel, size = _channel_data(buffer[start:], size, self.channels) if valid else (None, 0)
            clear[start:to] = overwritten
            if channel is None:
                break
            self._accept(cipher, channel, size)
            at, to = end, to + size
            if pieces and pieces[-1][0] is channel:
                pieces.pop()
            pieces.append((channel, to))
        start = _HEAD_BYTES
        for channel, to in pieces:
            self._deliver(channel, buffer[start:to])
            start = to
        return at

    def _accept(self, cipher: CachedGcm, channel: Any, size: int) -> None:
        """Count a data packet as received."""
        connection = self._connection
        cipher.advance()
        connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
        channel._recv_window -= size

    def _deliver_all(self, pieces_of: dict[Any, list[bytes]]) -> None:
        """Deliver the collected pieces of each channel, and clear the collection."""
        for channel, pieces in pieces_of.items():
            self._deliver(channel, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        pieces_of.clear()

    def _deliver(self, channel: Any, data: bytes | memoryview) -> None:
        """Deliver data as asyncssh's `_accept_data` does; the window has been reduced already."""
        if channel._send_state in _CLOSED or not data:
            return
        if channel._recv_paused:
            # a view would keep the whole buffer alive
            channel._recv_buf.append((bytes(data), None))
        elif 2 * channel._recv_window < channel._init_recv_window and not self._open_window(channel):
            channel._deliver_data(data, None)
        else:
            channel._session.data_received(data)


def _packet_end(received: bytes, at: int) -> tuple[bytes, int]:
    """Return the clear header of the packet that begins at `at`, and where it ends; beyond `received` if incomplete."""
    header = received[at : at + 4]
    return header, at + 4 + int.from_bytes(header, "big") + MAC_BYTES


def _channel_data(packet: bytes | memoryview, length: int, channels: dict[int, Any]) -> tuple[Any, int]:
    """Return the channel and the size of its data for a data packet of an open channel with enough window, else None.

    length: of the packet; `packet` may be longer.
    """
    padding, kind, number, size = _HEAD.unpack_from(packet)
    channel = channels.get(number)
    if kind != CHANNEL_DATA or channel is None or channel._recv_state != "open":
        return None, 0
    if size != length - padding - _HEAD_BYTES or size > channel._recv_window:
        return None, 0
    return channel, size
