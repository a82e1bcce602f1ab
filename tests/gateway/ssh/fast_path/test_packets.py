"""Packets of data take a short way, and nobody can tell but by the clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asyncssh.crypto.cipher import GCMCipher
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh.fast_path.gcm import MAC_BYTES, CachedGcm
from bouchet_gateway.ssh.fast_path.packets import MSG_IGNORE
from bouchet_gateway.ssh.fast_path.switch import fast_path_of

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
        yield gateway.forwarder.ports[0]


def speak_like_openssh(connection: Any) -> None:
    """This end of the connection sends no empty packets between those of data."""
    send = connection.send_packet

    def send_packet(kind: int, *parts: bytes, handler: Any = None) -> None:
        if kind != MSG_IGNORE:
            send(kind, *parts, handler=handler)

    connection.send_packet = send_packet


def cipher() -> GCMCipher:
    return GCMCipher("aes128-gcm", KEY, IV)


def test_it_is_the_cipher_of_asyncssh() -> None:
    theirs, ours = cipher(), CachedGcm(cipher())
    assert [ours.encrypt_and_sign(HEADER, packet) for packet in PACKETS] == [
        theirs.encrypt_and_sign(HEADER, packet) for packet in PACKETS
    ]


def test_what_was_looked_at_is_read_again_by_whoever_takes_it() -> None:
    theirs, ours = cipher(), CachedGcm(cipher())
    for packet in PACKETS:
        sealed, mac = theirs.encrypt_and_sign(HEADER, packet)
        body = sealed[len(HEADER) :]
        assert ours.peek(HEADER, body + mac) == packet
        assert ours.verify_and_decrypt(HEADER, body, mac) == packet


def test_a_packet_that_was_touched_is_none() -> None:
    sealed, mac = cipher().encrypt_and_sign(HEADER, PACKETS[0])
    body = sealed[len(HEADER) :]
    ours = CachedGcm(cipher())
    assert ours.peek(HEADER, body[:-1] + bytes([body[-1] ^ 1]) + mac) is None
    assert ours.peek(b"\0\0\0\x21", body + mac) is None
    assert ours.peek(HEADER, body + mac) == PACKETS[0]
    assert len(mac) == MAC_BYTES


def test_a_packet_is_opened_where_it_shall_lie() -> None:
    sealed, mac = cipher().encrypt_and_sign(HEADER, PACKETS[1])
    body = sealed[len(HEADER) :]
    room = bytearray(b"before" + bytes(32) + b"behind")
    ours, place = CachedGcm(cipher()), memoryview(room)[6:38]
    assert not ours.peek_into(place, HEADER, memoryview(body + bytes(MAC_BYTES)))
    assert ours.peek_into(place, HEADER, memoryview(body + mac))
    assert bytes(room) == b"before" + PACKETS[1] + b"behind"


@pytest.mark.parametrize("size", [1, 511, 4095, 4096, 32768, 32769, 200_000, 3_000_000])
async def test_every_size_comes_through_whole(slot: int, login_node: LoginNode, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    speak_like_openssh(*login_node.connections)
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
            assert await asyncio.wait_for(reader.readexactly(len(said)), 30) == said
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
    assert await asyncio.wait_for(reader.readexactly(len(whole)), 30) == whole
    writer.close()


def hold(login_node: LoginNode) -> tuple[bytearray, Callable[[bytes], None]]:
    """What the server sends from now on, not sent; and what sends it."""
    (connection,) = login_node.connections
    speak_like_openssh(connection)
    held = bytearray()
    connection._send = held.extend
    return held, connection._transport.write


async def test_large_and_small_packets_of_several_that_come_together_are_told_apart(
    slot: int, login_node: LoginNode
) -> None:
    """What the server says to three is held, and given at once."""
    ends = [await asyncio.open_connection("127.0.0.1", slot) for _ in range(3)]
    for reader, writer in ends:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    held, give = hold(login_node)
    said: list[list[bytes]] = [[], [], []]
    sizes = [9000, 5000, 4097, 100, 7000, 6000, 1, 9000]
    for turn, who in enumerate([0, 0, 1, 1, 2, 0, 1, 0, 2, 2, 0, 1]):
        words, before = bytes([65 + turn]) * sizes[turn % len(sizes)], len(held)
        said[who].append(words)
        ends[who][1].write(words)
        await until(lambda before=before, words=words: len(held) > before + len(words))
    give(bytes(held))
    for (reader, writer), words in zip(ends, said, strict=True):
        whole = b"".join(words)
        assert await asyncio.wait_for(reader.readexactly(len(whole)), 30) == whole
        writer.close()


async def test_a_packet_that_was_touched_ends_the_connection_and_no_byte_of_it_comes_out(
    slot: int, gateway: Gateway, login_node: LoginNode
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    held, give = hold(login_node)
    for words, least in ((b"a" * 9000, 9000), (b"b" * 9000, 18000)):
        writer.write(words)
        await until(lambda least=least: len(held) > least)
    held[-100] ^= 1
    give(bytes(held))
    came = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(reader.read(65536), 10):
            came += piece
    assert bytes(came) in (b"", b"a" * 9000)
    await until(lambda: gateway.tunnel.status().reconnects == 1)
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
    await until(lambda: not fast_path_of(session._connection).channels)
