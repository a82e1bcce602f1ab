"""Fewer packets, fewer system calls and less work for each on an SSH connection that is logged in.

asyncssh sends an empty MSG_IGNORE before every packet, each with a system call of its own. RFC 4251 (9.3.1) recommends
that against CBC ciphers, none of which is offered here (ssh.CIPHERS). And it asks of every packet a few dozen questions
that have one answer here: so packets of data on the forwards' channels, in and out, take a short way. Any other packet,
and any in which something is odd, goes asyncssh's way. docs/adr/0017-thrifty-packets.md has the figures.

asyncssh has no switch for any of it, so some methods of the one connection are replaced; its version is pinned, and
tests/gateway/test_packets.py counts what a server receives and has keys exchanged amid data.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable
from typing import Any

from .gcm import BLOCK_BYTES, MAC_BYTES, gcm_of

MSG_IGNORE = 2
CHANNEL_DATA = 94
_LENGTH = struct.Struct(">I")
# padding's length, kind, channel, length of the data; then the data, and at least 4 bytes of padding
_HEAD = struct.Struct(">BBII")
_HEAD_BYTES, _LEAST_PADDING = _HEAD.size, 4
# data of this size are handed on at once and where they lie; smaller ones that came together go on together
_LARGE = 4096
_CLOSED = frozenset({"close_pending", "closed"})
_DUE_S = 0.001


class _Quiet:
    """In the place of asyncssh's packet log, whose lines are made before anybody asks whether they are wanted."""

    def log_sent_packet(self, *_: Any) -> None:
        """Nothing."""


_QUIET = _Quiet()


def quieten(channel: Any) -> None:
    """The channel (asyncssh.SSHChannel) of a forward takes the short ways, and writes no line for every packet."""
    channel.log_received_packet = _QUIET.log_sent_packet
    thrift = getattr(channel._conn, "thrift", None)
    if thrift is not None:
        thrift.shorten(channel)


class Thrift:
    """The thrifty ways of one connection (asyncssh.SSHClientConnection), from now until `end`."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._now = self._loop.time
        self._lines: dict[int, Any] = {}
        self._pending: list[bytes] = []
        self._last: Any = None
        self._heard_at = self._now()
        self._padding = os.urandom(_LEAST_PADDING + BLOCK_BYTES)
        self._send_packet, self._recv_packet = connection.send_packet, connection._recv_pkthdr
        self._forget_channel, self._keepalive_due = connection.remove_channel, connection._keepalive_timer_callback
        self._recv = self._recv_data_packets
        self._replaced: dict[str, Callable[..., Any]] = {
            "send_packet": self._send_unless_ignored,
            "_send": self._send_soon,
            "data_received": self._received,
            "_recv_pkthdr": self._recv,
            "remove_channel": self._remove_channel,
            "_reset_keepalive_timer": self._heard,
            "_keepalive_timer_callback": self._perhaps_keep_alive,
        }
        connection.__dict__.update(self._replaced, thrift=self)
        if connection._recv_handler == self._recv_packet:
            connection._recv_handler = self._recv
        self._tell_transport()

    def end(self) -> None:
        """What waits goes out, and asyncssh's own methods work again: a goodbye must not wait for the next turn."""
        self._flush()
        for name in (*self._replaced, "thrift"):
            self._connection.__dict__.pop(name, None)
        self._replaced, self._lines = {}, {}
        if self._connection._recv_handler is self._recv:
            self._connection._recv_handler = self._recv_packet
        self._tell_transport()

    def shorten(self, channel: Any) -> None:
        """The channel of a forward takes the short ways."""
        write = channel.write

        def write_short(data: bytes) -> None:
            most = channel._send_pktsize
            while len(data) > most and self._send_data(channel, data[:most]):
                data = data[most:]
            if not self._send_data(channel, data):
                write(data)

        channel.write = write_short
        self._lines[channel._recv_chan] = channel

    def _remove_channel(self, number: int) -> None:
        self._lines.pop(number, None)
        self._forget_channel(number)

    def _tell_transport(self) -> None:
        """A TCP transport remembers the method that it calls; an SSH channel, or a program, does not."""
        remember = getattr(self._connection._transport, "set_protocol", None)
        if remember is not None:
            remember(self._connection)

    # silence

    def _heard(self) -> None:
        """Something came. asyncssh would end one timer and begin another, each time."""
        self._heard_at = self._now()
        if self._connection._keepalive_timer is None:
            self._connection._set_keepalive_timer()

    def _perhaps_keep_alive(self) -> None:
        connection = self._connection
        left = self._heard_at + connection._keepalive_interval - self._now()
        if left > _DUE_S:
            connection._keepalive_timer = self._loop.call_later(left, self._perhaps_keep_alive)
        else:
            self._keepalive_due()

    # out

    def _send_unless_ignored(self, kind: int, *parts: bytes, handler: Any = None) -> None:
        # the handler is there to log the packet, and nothing else
        if kind != MSG_IGNORE:
            gcm_of(self._connection._send_encryption)
            self._send_packet(kind, *parts, handler=_QUIET)

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
        """Sends it in one packet; or nothing has happened, and asyncssh knows what to do with it."""
        connection, size = self._connection, len(data)
        cipher = gcm_of(connection._send_encryption)
        if (
            cipher is None
            or not self._replaced
            or not 0 < size <= channel._send_window
            or size > channel._send_pktsize
            or channel._send_buf
            or channel._send_state != "open"
            or connection._compressor
            or not connection._kex_complete
            or connection._rekey_bytes_sent >= connection._rekey_bytes
            or (connection._rekey_seconds and time.monotonic() >= connection._rekey_time)
        ):
            return False
        padding = -(_HEAD_BYTES + _LEAST_PADDING + size) % BLOCK_BYTES + _LEAST_PADDING
        head = _HEAD.pack(padding, CHANNEL_DATA, channel._send_chan, size)
        packet = b"".join((head, data, self._padding[:padding]))
        length = _LENGTH.pack(len(packet))
        channel._send_window -= size
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet)
        self._pending += (length, cipher.seal(length, packet))
        # one that speaks alone need not wait for what others say in this turn of the loop
        if self._last is channel:
            self._flush()
        elif len(self._pending) == 2:
            self._loop.call_soon(self._flush)
        self._last = channel
        return True

    # in

    def _received(self, data: bytes, _: Any = None) -> None:
        """In the place of asyncssh's `data_received`, which gets what is left."""
        connection = self._connection
        self._heard_at = self._now()
        connection._inpbuf = connection._inpbuf + data if connection._inpbuf else data
        odd = True
        if connection._recv_handler is self._recv:
            try:
                odd = self._take_data_packets()
            except Exception:
                connection.internal_error()
                return
        if odd:
            connection._recv_data()

    def _recv_data_packets(self) -> bool:
        """In the place of asyncssh's `_recv_pkthdr`, which gets what is left; whether there may be more to read."""
        odd = self._take_data_packets()
        return odd and self._connection._transport is not None and bool(self._recv_packet())

    def _take_data_packets(self) -> bool:
        """Delivers packets of data as long as they are whole and nothing is odd; whether what follows is odd.

        Small ones are all read first and delivered then: each in turn would cost more CPU, for between two of them
        the kernel would push Python out of the processor's cache.
        """
        connection, lines = self._connection, self._lines
        cipher = gcm_of(connection._recv_encryption)
        if cipher is None or not connection._auth_complete or connection._decompressor is not None:
            return True
        received, at, odd = connection._inpbuf, 0, False
        whole = len(received)
        taken: dict[Any, list[bytes | memoryview]] = {}
        while at < whole:
            header, end = _ends(received, at)
            if end > whole:
                # of a packet that is longer than it may be, the rest is not waited for
                odd = end - at > connection._max_recv_pktlen
                break
            packet = cipher.look(header, received[at + 4 : end]) if end - at > 2 * BLOCK_BYTES else None
            line, data = _data_in(packet, lines) if packet is not None else (None, b"")
            if line is None:
                odd = True
                break
            cipher.accept()
            connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
            line._recv_window -= len(data)
            at = end
            taken.setdefault(line, []).append(data)
            if len(data) >= _LARGE:
                # this one would push itself out
                _deliver(taken)
        connection._inpbuf = received[at:]
        _deliver(taken)
        return odd


def _ends(received: bytes, at: int) -> tuple[bytes, int]:
    """The clear header of the packet that begins there, and where it ends; beyond what came if that is unknown."""
    header = received[at : at + 4]
    return header, at + 4 + int.from_bytes(header, "big") + MAC_BYTES


def _data_in(packet: bytes, lines: dict[int, Any]) -> tuple[Any, bytes | memoryview]:
    """The channel and its data, if it is a packet of data for one that is open and has room; else None."""
    padding, kind, number, size = _HEAD.unpack_from(packet)
    line = lines.get(number)
    if kind != CHANNEL_DATA or line is None or line._recv_state != "open":
        return None, b""
    if size != len(packet) - padding - _HEAD_BYTES or size > line._recv_window:
        return None, b""
    end = _HEAD_BYTES + size
    return line, packet[_HEAD_BYTES:end] if size < _LARGE else memoryview(packet)[_HEAD_BYTES:end]


def _deliver(taken: dict[Any, list[Any]]) -> None:
    """As asyncssh's `_accept_data` does, from whose windows these have been taken. Leaves none."""
    for line, pieces in taken.items():
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if line._send_state in _CLOSED or not data:
            continue
        if line._recv_paused:
            line._recv_buf.append((data, None))
        elif 2 * line._recv_window < line._init_recv_window:
            line._deliver_data(data, None)
        else:
            line._session.data_received(data)
    taken.clear()
