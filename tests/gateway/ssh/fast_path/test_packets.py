"""Packets in all sizes and groupings, broken ones, key exchange and keepalive, with and without the fast path."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh.fast_path.packets import CHANNEL_DATA, MSG_IGNORE

from tests.gateway.login_node import LoginNode
from tests.gateway.running import connected, echo, serve_behind, talk, tcp_server, wait_for_reconnect, wait_until

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_stream(slot: int) -> Stream:
    """Open a connection whose SSH channel is open too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    return reader, writer


def server_connection(login_node: LoginNode) -> Any:
    """Return the server's end of the one connection, with its private parts."""
    (connection,) = login_node.connections
    return connection


def send_as_openssh(connection: Any) -> None:
    """Make the server send no empty MSG_IGNORE packets, as OpenSSH does."""
    send = connection.send_packet

    def send_packet(kind: int, *parts: bytes, handler: Any = None) -> None:
        if kind != MSG_IGNORE:
            send(kind, *parts, handler=handler)

    connection.send_packet = send_packet


def hold_output(login_node: LoginNode) -> tuple[bytearray, Callable[[bytes], None]]:
    """Hold what the server sends from now on; return it, and the function that sends bytes."""
    connection = server_connection(login_node)
    send_as_openssh(connection)
    held = bytearray()
    connection._send = held.extend
    return held, connection._transport.write


@pytest.mark.parametrize("size", [1, 511, 4095, 4096, 32768, 32769, 200_000, 3_000_000])
async def test_data_of_every_size_arrives_whole(echo_slot: int, login_node: LoginNode, size: int) -> None:
    reader, writer = await open_stream(echo_slot)
    send_as_openssh(server_connection(login_node))
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(size), 30) == data
    writer.close()


async def test_data_of_many_channels_is_kept_apart_and_in_order(echo_slot: int) -> None:
    async def converse(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
        for turn in range(20):
            data = b"%03d %03d" % (number, turn) * (1 + (number * turn) % 700)
            writer.write(data)
            assert await asyncio.wait_for(reader.readexactly(len(data)), 30) == data
        writer.close()

    await asyncio.gather(*(converse(number) for number in range(24)))


async def test_packets_split_into_pieces_are_reassembled(echo_slot: int, login_node: LoginNode) -> None:
    reader, writer = await open_stream(echo_slot)
    held, send = hold_output(login_node)
    sent = [bytes([number]) * (100 + number * 333) for number in range(9)]
    for data in sent:
        writer.write(data)
    await wait_until(lambda: len(held) > sum(map(len, sent)))
    for at in range(0, len(held), 97):
        send(bytes(held[at : at + 97]))
        await asyncio.sleep(0)
    whole = b"".join(sent)
    assert await asyncio.wait_for(reader.readexactly(len(whole)), 30) == whole
    writer.close()


async def test_packets_of_several_channels_in_one_piece_are_separated(echo_slot: int, login_node: LoginNode) -> None:
    streams = [await open_stream(echo_slot) for _ in range(3)]
    held, send = hold_output(login_node)
    sent: list[list[bytes]] = [[], [], []]
    sizes = [9000, 5000, 4097, 100, 7000, 6000, 1, 9000]
    for turn, channel in enumerate([0, 0, 1, 1, 2, 0, 1, 0, 2, 2, 0, 1]):
        data = bytes([65 + turn]) * sizes[turn % len(sizes)]
        expected = len(held) + len(data)
        sent[channel].append(data)
        streams[channel][1].write(data)
        await wait_until(lambda expected=expected: len(held) > expected)  # type: ignore[misc]
    send(bytes(held))
    for (reader, writer), pieces in zip(streams, sent, strict=True):
        whole = b"".join(pieces)
        assert await asyncio.wait_for(reader.readexactly(len(whole)), 30) == whole
        writer.close()


async def test_modified_packet_ends_connection_without_its_data(
    echo_slot: int, gateway: Gateway, login_node: LoginNode
) -> None:
    reader, writer = await open_stream(echo_slot)
    held, send = hold_output(login_node)
    for data, expected in ((b"a" * 9000, 9000), (b"b" * 9000, 18000)):
        writer.write(data)
        await wait_until(lambda expected=expected: len(held) > expected)  # type: ignore[misc]
    held[-100] ^= 1
    send(bytes(held))
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(reader.read(65536), 30):
            received += piece
    assert bytes(received) in (b"", b"a" * 9000)
    await wait_for_reconnect(gateway)
    writer.close()


async def test_rekey_during_transfer_loses_nothing(
    login_node: LoginNode, store: Store, ssh_changes: dict[str, Any]
) -> None:
    await login_node.stop()
    login_node.rekey_bytes = 300_000
    await login_node.start()
    data = bytes(range(256)) * 4000
    async with connected(login_node, store, ssh=ssh_changes) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, port)
        connection = server_connection(login_node)
        first = connection._send_encryption
        answers = await asyncio.gather(*(talk(gateway.forwarder.ports[0], data) for _ in range(3)))
        assert answers == [data] * 3
        assert connection._send_encryption is not first, "no keys were exchanged"
        assert gateway.tunnel.status().reconnects == 0


async def test_data_for_unknown_channel_ends_connection(
    echo_slot: int, gateway: Gateway, login_node: LoginNode
) -> None:
    unknown, length = (4711).to_bytes(4, "big"), (1).to_bytes(4, "big")
    server_connection(login_node).send_packet(CHANNEL_DATA, unknown, length, b"x")
    assert "4711" in (await wait_for_reconnect(gateway)).last_error
    assert await talk(echo_slot, b"again") == b"again"


@pytest.mark.parametrize("malformed", [b"", b"\0\0\0\x09x", b"\0\0\0\0more"])
async def test_malformed_data_packet_ends_connection(
    echo_slot: int, gateway: Gateway, login_node: LoginNode, malformed: bytes
) -> None:
    reader, writer = await open_stream(echo_slot)
    connection = server_connection(login_node)
    number = next(channel._send_chan for channel in connection._channels.values())
    connection.send_packet(CHANNEL_DATA, number.to_bytes(4, "big"), malformed)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 30)
    writer.close()
    await wait_for_reconnect(gateway)


async def test_keepalive_notices_silence_after_traffic(echo_slot: int, gateway: Gateway, login_node: LoginNode) -> None:
    reader, writer = await open_stream(echo_slot)
    for _ in range(10):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await asyncio.sleep(0.02)
    transport = server_connection(login_node)._transport
    transport.pause_reading()
    # one keepalive after 0.2 s of silence and two more; then the connection is lost
    assert "keepalive" in (await wait_for_reconnect(gateway)).last_error
    transport.resume_reading()
    writer.close()
