"""Fewer packets and fewer system calls on an SSH connection that is logged in.

asyncssh sends an empty MSG_IGNORE before every packet, each with a system call of its own. RFC 4251 (9.3.1) recommends
that against CBC ciphers, none of which is offered here (ssh.CIPHERS). Without it, and with the packets of one turn of
the event loop sent together, 64 busy connections cost a third less CPU (`make bench` measures it beside ssh -L).

Packets of data that have come together are taken one after the other without asyncssh's general way of reading, which
copies what is left for each and asks a dozen questions that have one answer here; any other packet goes that way still.

asyncssh has no switch for any of it, so three methods of the one connection are replaced; its version is pinned, and
tests/gateway/test_packets.py counts what a server receives and has keys exchanged amid data.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asyncssh.crypto.cipher import GCMCipher

MSG_IGNORE = 2
CHANNEL_DATA = b"\x5e"
# of AES-GCM; a packet is its length (4 bytes, in clear), itself, and this
_MAC_BYTES = 16


class _Quiet:
    """In the place of asyncssh's packet log, whose lines are made before anybody asks whether they are wanted."""

    def log_sent_packet(self, *_: Any) -> None:
        """Nothing."""


_QUIET = _Quiet()


def quieten(channel: Any) -> None:
    """The channel (asyncssh.SSHChannel) writes no line for every packet that it receives."""
    channel.log_received_packet = _QUIET.log_sent_packet


class Thrift:
    """The thrifty sender of one connection (asyncssh.SSHClientConnection), from now until `end`."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._send_packet = connection.send_packet
        connection.send_packet = self._send_unless_ignored
        connection._send = self._send_soon
        self._recv_packet = connection._recv_pkthdr
        if connection._recv_handler == self._recv_packet:
            connection._recv_handler = self._recv_data_packets
        connection._recv_pkthdr = self._recv_data_packets

    def end(self) -> None:
        """What waits goes out, and asyncssh's own methods work again: a goodbye must not wait for the next turn."""
        self._flush()
        for replaced in ("send_packet", "_send", "_recv_pkthdr"):
            self._connection.__dict__.pop(replaced, None)
        if self._connection._recv_handler == self._recv_data_packets:
            self._connection._recv_handler = self._recv_packet

    def _send_unless_ignored(self, kind: int, *parts: bytes, handler: Any = None) -> None:
        # the handler is there to log the packet, and nothing else
        if kind != MSG_IGNORE:
            self._send_packet(kind, *parts, handler=_QUIET)

    def _send_soon(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def _flush(self) -> None:
        transport = self._connection._transport
        if self._pending and transport is not None:
            transport.write(b"".join(self._pending))
        self._pending.clear()

    def _recv_data_packets(self) -> bool:
        """Delivers the packets of data that have come whole; whatever follows is asyncssh's to read."""
        connection = self._connection
        cipher = getattr(connection._recv_encryption, "_cipher", None)
        if isinstance(cipher, GCMCipher) and connection._auth_complete and connection._decompressor is None:
            received, at = connection._inpbuf, 0
            while (end := self._deliver(received, at, cipher)) and connection._transport is not None:
                at = end
            if connection._transport is None:
                return False
            connection._inpbuf = received[at:]
        return bool(self._recv_packet())

    def _deliver(self, received: bytes, at: int, cipher: GCMCipher) -> int:
        """Where the packet ends that begins there, if it was data and is delivered; else 0, and nothing has changed."""
        connection, begin = self._connection, at + 4
        header = received[at:begin]
        end = begin + int.from_bytes(header, "big")
        if end + _MAC_BYTES > len(received):
            return 0
        before = cipher._iv
        packet = cipher.verify_and_decrypt(header, received[begin:end], received[end : end + _MAC_BYTES])
        if packet is not None and packet[1:2] == CHANNEL_DATA:
            # padding's length, kind, channel (4), length (4), data, padding
            channel = connection._channels.get(int.from_bytes(packet[2:6], "big"))
            data = packet[10 : len(packet) - packet[0]]
            fits = len(data) == int.from_bytes(packet[6:10], "big")
            if fits and channel and channel._recv_state == "open" and len(data) <= channel._recv_window:
                connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
                channel._accept_data(data)
                return end + _MAC_BYTES
        cipher._iv = before
        return 0
