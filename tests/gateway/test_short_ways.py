"""Packets of data take a short way, and nobody can tell but by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asyncssh.crypto.cipher import GCMCipher
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.gcm import MAC_BYTES, Gcm

from .conftest import LoginNode, serve_behind, tcp_server, until
from .test_forward import echo

KEY, HEADER = bytes(range(16)), b"\0\0\0\x20"
# the count of the next packet but one begins anew
IV = b"\1\2\3\4" + b"\xff" * 7 + b"\xfe"
PACKETS = [bytes([number]) * 32 for number in range(5)]


@pytest.fixture
async def slot(gateway: Gateway, store: Store) -> AsyncIterator[int]:
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port)
        yield gateway.forwards.ports[0]


def cipher() -> GCMCipher:
    return GCMCipher("aes128-gcm", KEY, IV)


def test_it_is_the_cipher_of_asyncssh() -> None:
    theirs, ours = cipher(), Gcm(cipher())
    assert [ours.encrypt_and_sign(HEADER, packet) for packet in PACKETS] == [
        theirs.encrypt_and_sign(HEADER, packet) for packet in PACKETS
    ]


def test_what_was_looked_at_is_read_again_by_whoever_takes_it() -> None:
    theirs, ours = cipher(), Gcm(cipher())
    for packet in PACKETS:
        sealed, mac = theirs.encrypt_and_sign(HEADER, packet)
        body = sealed[len(HEADER) :]
        assert ours.look(HEADER, body + mac) == packet
        assert ours.verify_and_decrypt(HEADER, body, mac) == packet


def test_a_packet_that_was_touched_is_none() -> None:
    sealed, mac = cipher().encrypt_and_sign(HEADER, PACKETS[0])
    body = sealed[len(HEADER) :]
    ours = Gcm(cipher())
    assert ours.look(HEADER, body[:-1] + bytes([body[-1] ^ 1]) + mac) is None
    assert ours.look(b"\0\0\0\x21", body + mac) is None
    assert ours.look(HEADER, body + mac) == PACKETS[0]
    assert len(mac) == MAC_BYTES


@pytest.mark.parametrize("size", [1, 511, 4095, 4096, 32768, 32769, 200_000, 3_000_000])
async def test_every_size_comes_through_whole(slot: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(size), 10) == data
    writer.close()


async def test_many_at_once_hear_their_own_in_order(slot: int) -> None:
    async def talk(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", slot)
        for turn in range(20):
            said = b"%03d %03d" % (number, turn) * (1 + (number * turn) % 700)
            writer.write(said)
            assert await asyncio.wait_for(reader.readexactly(len(said)), 10) == said
        writer.close()

    await asyncio.gather(*(talk(number) for number in range(24)))


async def test_packets_that_come_in_pieces_are_put_together(slot: int, login_node: LoginNode) -> None:
    """The server's bytes are held and given in odd portions."""
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    (connection,) = login_node.connections
    held = bytearray()
    give: Any = connection._transport.write
    connection._send = held.extend
    said = [bytes([number]) * (100 + number * 333) for number in range(9)]
    for words in said:
        writer.write(words)
    await until(lambda: len(held) > sum(map(len, said)))
    for at in range(0, len(held), 97):
        give(bytes(held[at : at + 97]))
        await asyncio.sleep(0)
    whole = b"".join(said)
    assert await asyncio.wait_for(reader.readexactly(len(whole)), 10) == whole
    writer.close()


async def test_silence_is_noticed_though_there_was_talk(slot: int, gateway: Gateway, login_node: LoginNode) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    for _ in range(20):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await asyncio.sleep(0.02)
    (connection,) = login_node.connections
    connection._transport.pause_reading()
    # asked after 0.2 s of silence, and twice more; given up then
    await until(lambda: gateway.tunnel.status().reconnects == 1)
    assert "keepalive" in gateway.tunnel.status().last_error
    connection._transport.resume_reading()
    writer.close()


async def test_a_channel_that_is_gone_is_forgotten(slot: int, gateway: Gateway) -> None:
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", slot)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        await writer.wait_closed()
    session = await gateway.tunnel.session(1)
    await until(lambda: not session._thrift._lines)
