"""The slots: bytes through the one connection, and words where nothing can be reached."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from bouchet_core.errors import RemoteFileError, TunnelDownError
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits
from bouchet_gateway.slots import forward
from bouchet_gateway.slots.forward import refusal

from tests.conftest import RedisServer

from .conftest import LoginNode, make_settings, reached, serve_behind, tcp_server, until

PIECES = 600
REQUEST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def echo_port(gateway: Gateway, store: Store) -> AsyncIterator[int]:
    """The port of slot 0, an echo server behind it."""
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port)
        yield gateway.forwarder.ports[0]


async def talk(port: int, data: bytes) -> bytes:
    """What comes back for these bytes, sent and then finished."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return answer


async def becomes(port: int, data: bytes, answer: bytes) -> None:
    """Returns once that is what comes back."""
    async with asyncio.timeout(30):
        while await talk(port, data) != answer:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def words_of(answer: bytes) -> tuple[bytes, dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    return head.splitlines()[0], json.loads(body)


async def test_bytes_go_both_ways_unchanged(echo_port: int, login_node: LoginNode) -> None:
    data = bytes(range(256)) * 20_000
    assert await talk(echo_port, data) == data
    assert (login_node.accepted, login_node.channels) == (1, 1)


async def test_many_connections_share_the_one(echo_port: int, login_node: LoginNode, gateway: Gateway) -> None:
    answers = await asyncio.gather(*(talk(echo_port, f"{n}".encode() * 1000) for n in range(64)))
    assert answers == [f"{n}".encode() * 1000 for n in range(64)]
    assert (login_node.accepted, login_node.channels) == (1, 64)
    await until(lambda: gateway.forwarder.channels == 0)


async def test_a_caller_that_finished_speaking_still_hears(gateway: Gateway, store: Store) -> None:
    async def sums_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read()
        await asyncio.sleep(0.1)
        writer.write(b"%d bytes" % len(said))
        writer.close()

    async with tcp_server(sums_up) as port:
        serve_behind(store, 0, port)
        assert await talk(gateway.forwarder.ports[0], b"x" * 100_000) == b"100000 bytes"


async def test_a_server_that_finished_speaking_still_hears(gateway: Gateway, store: Store) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    async with tcp_server(speaks_first) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0])
        assert await reader.read() == b"hello"
        writer.write(b"late words")
        writer.write_eof()
        assert await asyncio.wait_for(heard, 30) == b"late words"
        writer.close()


async def test_a_slow_reader_slows_the_server_and_not_our_memory(gateway: Gateway, store: Store) -> None:
    sent = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        piece = b"x" * 65536
        try:
            for _ in range(PIECES):
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        except OSError:
            pass
        writer.close()

    async with tcp_server(floods) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0], limit=1024)
        tracemalloc.start()
        await asyncio.sleep(1.0)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stalled = sent
        got = 0
        while data := await reader.read(1 << 20):
            got += len(data)
        writer.close()
    assert got == PIECES * 65536
    # what sockets' own buffers take is the kernel's; the rest is bounded by the channel's window
    assert stalled < 16 << 20
    assert held < 8 << 20


async def test_a_slow_server_slows_the_caller(gateway: Gateway, store: Store) -> None:
    go = asyncio.Event()

    async def listens_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        total = 0
        while data := await reader.read(1 << 20):
            total += len(data)
        writer.write(b"%d" % total)
        writer.close()

    async with tcp_server(listens_late) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0])
        writer.write(b"x" * (24 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.7)
        go.set()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 30) == b"%d" % (24 << 20)
        writer.close()


async def test_nothing_behind_the_slot_is_said_at_once(login_node: LoginNode, store: Store) -> None:
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(hold_s=600)), store)
    async with gateway.running():
        status, words = words_of(await talk(gateway.forwarder.ports[1], REQUEST))
    assert (status, words["kind"]) == (b"HTTP/1.1 503 Service Unavailable", "no_target")


async def test_http_clients_hear_the_words(gateway: Gateway) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{gateway.forwarder.ports[1]}/v1/messages", content=b"x" * 300_000)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "slot 1" in answer.json()["error"]["message"]


async def test_a_port_where_nothing_listens_yet_is_said(gateway: Gateway, store: Store) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        serve_behind(store, 0, unused.getsockname()[1])
        _, words = words_of(await talk(gateway.forwarder.ports[0], REQUEST))
    assert words["kind"] == "remote_refused"


async def test_a_moved_job_is_followed(gateway: Gateway, store: Store, echo_port: int) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"moved")
        writer.close()

    assert await talk(echo_port, b"x") == b"x"
    async with tcp_server(other) as port:
        record = store.get("d0")
        assert record.job is not None
        store.save(record.with_job(record.job.model_copy(update={"port": port}), record.updated_at))
        await becomes(echo_port, b"x", b"moved")


async def test_a_new_connection_is_held_until_ssh_is_back(
    gateway: Gateway, login_node: LoginNode, echo_port: int
) -> None:
    await login_node.stop()
    await reached(gateway, TunnelState.DOWN)
    held = [asyncio.create_task(talk(echo_port, b"patience %d" % n)) for n in range(16)]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in held)
    await login_node.start()
    assert await asyncio.gather(*held) == [b"patience %d" % n for n in range(16)]
    assert gateway.tunnel.status().reconnects == 1
    assert login_node.accepted == 2


async def test_a_connection_is_not_held_for_ever(login_node: LoginNode, store: Store) -> None:
    serve_behind(store, 0, 9)
    await login_node.stop()
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(hold_s=0.3)), store)
    async with gateway.running():
        _, words = words_of(await talk(gateway.forwarder.ports[0], REQUEST))
    assert words["kind"] == "tunnel_down"
    await login_node.start()


async def test_a_caller_that_leaves_while_held_takes_no_place(
    gateway: Gateway, login_node: LoginNode, echo_port: int
) -> None:
    await login_node.stop()
    await reached(gateway, TunnelState.DOWN)
    _, writer = await asyncio.open_connection("127.0.0.1", echo_port)
    writer.write(REQUEST)
    await asyncio.sleep(0.1)
    # a caller that is killed resets its connection; one that only finished speaking is still served
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await asyncio.sleep(0.1)
    await login_node.start()
    await reached(gateway, TunnelState.UP)
    await asyncio.sleep(0.1)
    assert login_node.channels == 0


async def test_a_stream_that_is_cut_ends_in_an_error_not_in_a_proper_end(
    gateway: Gateway, login_node: LoginNode, store: Store
) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"token\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError:
            writer.close()

    async with tcp_server(endless) as port:
        serve_behind(store, 0, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0])
        assert await reader.readline() == b"token\n"
        login_node.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readuntil(b"an end"), 30)
        writer.close()
        await asyncio.sleep(0.05)


async def test_too_many_connections_to_one_slot_are_refused(login_node: LoginNode, store: Store) -> None:
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(connections_per_slot=2)), store)
    async with gateway.running(), tcp_server(echo) as port:
        serve_behind(store, 0, port)
        kept = [await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0]) for _ in range(2)]
        _, words = words_of(await talk(gateway.forwarder.ports[0], REQUEST))
        assert "2 connections already" in str(words["detail"])
        for _, writer in kept:
            writer.close()
        await until(lambda: gateway.forwarder.clients < 2)
        assert await talk(gateway.forwarder.ports[0], b"again") == b"again"


async def test_while_redis_is_away_the_last_target_serves(
    gateway: Gateway, echo_port: int, redis_server: RedisServer
) -> None:
    assert await talk(echo_port, b"before") == b"before"
    redis_server.stop()
    await asyncio.sleep(0.6)
    assert await talk(echo_port, b"after") == b"after"


async def test_without_redis_and_without_memory_the_words_say_so(gateway: Gateway, redis_server: RedisServer) -> None:
    redis_server.stop()
    _, words = words_of(await talk(gateway.forwarder.ports[1], REQUEST))
    assert words["kind"] == "store_unavailable"


async def test_a_thousand_connections_leave_nothing_behind(
    gateway: Gateway, echo_port: int, login_node: LoginNode
) -> None:
    async def hang_up() -> None:
        """As a client that is killed: without waiting for the channel, or in the middle of an answer."""
        _, writer = await asyncio.open_connection("127.0.0.1", echo_port)
        writer.write(b"x" * 4000)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    await talk(echo_port, b"x")
    await until(lambda: gateway.forwarder.channels == 0)
    before = descriptors()
    for _ in range(20):
        await asyncio.gather(*(talk(echo_port, b"x") for _ in range(40)), *(hang_up() for _ in range(10)))
    await until(lambda: gateway.forwarder.channels == 0 and descriptors() <= before)
    gc.collect()
    # the session's life, its watch, and this test
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert len(names) < 10, names
    # asyncssh's own books, at both ends
    theirs = [*login_node.connections]
    mine = await gateway.tunnel.session(1)
    await until(lambda: not [c for c in (mine._connection, *theirs) if len(c._channels) > 1])


def descriptors() -> int:
    """Files and sockets that this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_refusals_say_who_is_to_blame() -> None:
    for error in (TunnelDownError("ü"), RemoteFileError("x")):
        _, words = words_of(refusal(error))
        assert (words["kind"], words["detail"], words["status"]) == (error.kind, str(error), 503)


async def test_bytes_are_counted_both_ways(gateway: Gateway, echo_port: int) -> None:
    before = gateway.forwarder.traffic
    assert len(await talk(echo_port, b"x" * 10_000)) == 10_000
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_port)
    writer.write(b"y" * 500)
    assert len(await reader.readexactly(500)) == 500
    # while a connection is open, too
    now = gateway.forwarder.traffic
    assert (now.up - before.up, now.down - before.down) == (10_500, 10_500)
    writer.close()
    await until(lambda: gateway.forwarder.channels == 0)
    assert gateway.forwarder.traffic == now


async def test_callers_that_leave_while_they_are_connected_leave_no_channel(gateway: Gateway, echo_port: int) -> None:
    async def leaves(after_s: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", echo_port)
        writer.write(REQUEST)
        await asyncio.sleep(after_s)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    for _ in range(5):
        await asyncio.gather(*(leaves(0.0002 * n) for n in range(50)))
    await until(lambda: gateway.forwarder.channels == 0)


async def test_a_refused_caller_that_finished_speaking_gives_its_place_back(
    login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "REFUSAL_TIMEOUT_S", 3600)
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(connections_per_slot=1)), store)
    async with gateway.running(), tcp_server(echo) as port:
        serve_behind(store, 0, port)
        slot = gateway.forwarder.ports[0]
        _, kept = await asyncio.open_connection("127.0.0.1", slot)
        reader, refused = await asyncio.open_connection("127.0.0.1", slot)
        refused.write(REQUEST)
        words_of(await reader.read())
        refused.write_eof()
        kept.close()
        while await talk(slot, b"again") != b"again":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        refused.close()
