"""Relay: bytes, EOF and back-pressure in both directions, through a slot and an SSH channel."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.slots.relay import FIRST_READ_BYTES, EarlyBudget, RelayEnd

from tests.gateway.login_node import LoginNode
from tests.gateway.running import serve_behind, talk, tcp_server, wait_until

CHUNK = b"x" * 65536
CHUNKS = 400
UPLOAD_BYTES = 24 << 20


async def test_relay_passes_bytes_unchanged(echo_slot: int, login_node: LoginNode) -> None:
    data = bytes(range(256)) * 20_000
    assert await talk(echo_slot, data) == data
    assert (login_node.accepted, login_node.channels) == (1, 1)


async def test_relay_many_clients_share_one_connection(echo_slot: int, login_node: LoginNode, gateway: Gateway) -> None:
    answers = await asyncio.gather(*(talk(echo_slot, f"{n}".encode() * 1000) for n in range(64)))
    assert answers == [f"{n}".encode() * 1000 for n in range(64)]
    assert (login_node.accepted, login_node.channels) == (1, 64)
    await wait_until(lambda: gateway.forwarder.channels == 0)


async def test_relay_client_eof_still_receives(gateway: Gateway, store: Store) -> None:
    async def count_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read()
        await asyncio.sleep(0.05)
        writer.write(b"%d bytes" % len(received))
        writer.close()

    async with tcp_server(count_bytes) as port:
        serve_behind(store, 0, port)
        assert await talk(gateway.forwarder.ports[0], b"x" * 100_000) == b"100000 bytes"


async def test_relay_server_eof_still_receives(gateway: Gateway, store: Store) -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def send_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        received.set_result(await reader.read())
        writer.close()

    async with tcp_server(send_first) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0])
        assert await reader.read() == b"hello"
        writer.write(b"late data")
        writer.write_eof()
        assert await asyncio.wait_for(received, 30) == b"late data"
        writer.close()


async def test_relay_slow_client_pauses_server(gateway: Gateway, store: Store) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            for _ in range(CHUNKS):
                writer.write(CHUNK)
                await writer.drain()
                sent += len(CHUNK)
        except OSError:
            pass
        writer.close()

    async with tcp_server(flood) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0], limit=1024)
        tracemalloc.start()
        try:
            before = -1
            while before < sent:
                before = sent
                await asyncio.sleep(0.3)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        stalled_at, received = sent, 0
        while data := await reader.read(1 << 20):
            received += len(data)
        writer.close()
    assert received == CHUNKS * len(CHUNK)
    # socket buffers are the kernel's; the rest is bounded by the channel's window
    assert stalled_at < 16 << 20
    assert held < 8 << 20


async def test_relay_slow_server_pauses_client(gateway: Gateway, store: Store) -> None:
    go = asyncio.Event()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        total = 0
        while data := await reader.read(1 << 20):
            total += len(data)
        writer.write(b"%d" % total)
        writer.close()

    async with tcp_server(read_late) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0])
        writer.write(b"x" * UPLOAD_BYTES)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        go.set()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 30) == b"%d" % UPLOAD_BYTES
        writer.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_relay_end_without_early_memory_reads_little_and_loses_nothing(
    run: Callable[[Coroutine[Any, Any, tuple[int, bytes]]], tuple[int, bytes]],
) -> None:
    """Try both event loops: the gateway runs on uvloop."""
    data = bytes(range(256)) * 200

    async def relayed() -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        client, peer, received = RelayEnd(budget=EarlyBudget(0)), RelayEnd(), loop.create_future()

        async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.set_result(await reader.read())
            writer.close()

        async with tcp_server(read_all) as port:
            server = await loop.create_server(lambda: client.protocol, "127.0.0.1", 0)
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                await client.has_data.wait()
                await asyncio.sleep(0.1)
                early = client.bytes_received
                await loop.create_connection(lambda: peer, "127.0.0.1", port)
                client.join(peer)
                result = await asyncio.wait_for(received, 10)
                await peer.ended.wait()
            server.close()
        return early, result

    assert run(relayed()) == (FIRST_READ_BYTES, data)


async def test_relay_lost_ssh_connection_resets_client(gateway: Gateway, login_node: LoginNode, store: Store) -> None:
    async def stream_tokens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"token\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError:
            writer.close()

    async with tcp_server(stream_tokens) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0])
        assert await reader.readline() == b"token\n"
        login_node.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readuntil(b"the end"), 30)
        writer.close()
        await asyncio.sleep(0.05)
