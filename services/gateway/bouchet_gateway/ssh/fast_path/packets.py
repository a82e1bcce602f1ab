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

from .gcm import BLOCK_BYTES, MAC_BYTES, Gcm, gcm_of

MSG_IGNORE = 2
WINDOW_ADJUST = 93
CHANNEL_DATA = 94
_LENGTH = struct.Struct(">I")
# padding's length, kind, channel, length of the data (or what the window grows by); data; 4 bytes of padding or more
_HEAD = struct.Struct(">BBII")
_HEAD_BYTES, _LEAST_PADDING = _HEAD.size, 4
# packets of this size are handed on at once, a row of them in one piece; smaller ones that came together go on together
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
        size = len(data)
        if not 0 < size <= channel._send_window or size > channel._send_pktsize or channel._send_buf:
            return False
        cipher = self._short_way(channel)
        if cipher is None:
            return False
        channel._send_window -= size
        self._seal(cipher, CHANNEL_DATA, channel, size, data)
        # one that speaks alone need not wait for what others say in this turn of the loop
        if self._last is channel:
            self._flush()
        elif len(self._pending) == 2:
            self._loop.call_soon(self._flush)
        self._last = channel
        return True

    def _widen(self, channel: Any) -> bool:
        """Lets the server send a whole window again; or nothing has happened, and asyncssh must."""
        cipher = self._short_way(channel)
        if cipher is None:
            return False
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._seal(cipher, WINDOW_ADJUST, channel, channel._init_recv_window - channel._recv_window)
        channel._recv_window = channel._init_recv_window
        return True

    def _short_way(self, channel: Any) -> Gcm | None:
        """The cipher, if a packet of that channel may leave past asyncssh."""
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
        return gcm_of(connection._send_encryption)

    def _seal(self, cipher: Gcm, kind: int, channel: Any, number: int, data: bytes = b"") -> None:
        """One packet more that waits to be sent."""
        connection = self._connection
        padding = -(_HEAD_BYTES + _LEAST_PADDING + len(data)) % BLOCK_BYTES + _LEAST_PADDING
        packet = b"".join((_HEAD.pack(padding, kind, channel._send_chan, number), data, self._padding[:padding]))
        length = _LENGTH.pack(len(packet))
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet)
        self._pending += (length, cipher.seal(length, packet))

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
        taken: dict[Any, list[bytes]] = {}
        while at < whole:
            header, end = _ends(received, at)
            if end > whole:
                # of a packet that is longer than it may be, the rest is not waited for
                odd = end - at > connection._max_recv_pktlen
                break
            if end - at > _LARGE:
                # the small ones would be pushed out of the cache
                self._hand_on(taken)
                begun, at = at, self._take_large(cipher, received, at)
                odd = at == begun
                if odd:
                    break
                continue
            packet = cipher.look(header, received[at + 4 : end]) if end - at > 2 * BLOCK_BYTES else None
            line, size = _data_in(packet, len(packet), lines) if packet is not None else (None, 0)
            if packet is None or line is None:
                odd = True
                break
            self._accept(cipher, line, size)
            at = end
            taken.setdefault(line, []).append(packet[_HEAD_BYTES : _HEAD_BYTES + size])
        connection._inpbuf = received[at:]
        self._hand_on(taken)
        return odd

    def _take_large(self, cipher: Gcm, received: bytes, at: int) -> int:
        """Delivers the large packets of data that lie there in a row; where they end, the place given if there is none.

        Each is opened so that its data lie right behind those of the one before, for the time being with its head on
        their end: so what one channel says leaves in one system call, and nothing is copied for it.
        """
        whole = len(received)
        clear, sealed = bytearray(whole - at), memoryview(received)
        room = memoryview(clear)
        pieces: list[tuple[Any, int]] = []
        to = _HEAD_BYTES
        while at < whole:
            header, end = _ends(received, at)
            if end > whole or end - at <= _LARGE:
                break
            start, size = to - _HEAD_BYTES, end - at - len(header) - MAC_BYTES
            covered = clear[start:to]
            sound = cipher.look_into(room[start : start + size], header, sealed[at + 4 : end])
            line, size = _data_in(room[start:], size, self._lines) if sound else (None, 0)
            clear[start:to] = covered
            if line is None:
                break
            self._accept(cipher, line, size)
            at, to = end, to + size
            if pieces and pieces[-1][0] is line:
                pieces.pop()
            pieces.append((line, to))
        start = _HEAD_BYTES
        for line, to in pieces:
            self._deliver(line, room[start:to])
            start = to
        return at

    def _accept(self, cipher: Gcm, line: Any, size: int) -> None:
        """A packet of data has been looked at, and is taken."""
        connection = self._connection
        cipher.accept()
        connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
        line._recv_window -= size

    def _hand_on(self, taken: dict[Any, list[bytes]]) -> None:
        """Delivers what was taken, and leaves none."""
        for line, pieces in taken.items():
            self._deliver(line, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        taken.clear()

    def _deliver(self, line: Any, data: bytes | memoryview) -> None:
        """As asyncssh's `_accept_data` does, from whose window these have been taken."""
        if line._send_state in _CLOSED or not data:
            return
        if line._recv_paused:
            # a view would keep all that came with it
            line._recv_buf.append((bytes(data), None))
        elif 2 * line._recv_window < line._init_recv_window and not self._widen(line):
            line._deliver_data(data, None)
        else:
            line._session.data_received(data)


def _ends(received: bytes, at: int) -> tuple[bytes, int]:
    """The clear header of the packet that begins there, and where it ends; beyond what came if that is unknown."""
    header = received[at : at + 4]
    return header, at + 4 + int.from_bytes(header, "big") + MAC_BYTES


def _data_in(packet: bytes | memoryview, length: int, lines: dict[int, Any]) -> tuple[Any, int]:
    """The channel and the size of its data, if it is a packet of data for one that is open and has room; else None.

    length: the packet's; what follows it is not of interest.
    """
    padding, kind, number, size = _HEAD.unpack_from(packet)
    line = lines.get(number)
    if kind != CHANNEL_DATA or line is None or line._recv_state != "open":
        return None, 0
    if size != length - padding - _HEAD_BYTES or size > line._recv_window:
        return None, 0
    return line, size
