"""What goes over the wire: nothing but what is needed, and a proper goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, make_settings, reached, serve_behind, tcp_server, until
from .test_forward import echo, talk

ASKS = 50


@pytest.fixture
async def slot(gateway: Gateway, store: Store) -> AsyncIterator[int]:
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port)
        yield gateway.forwarder.ports[0]


async def test_a_request_is_one_packet(slot: int, login_node: LoginNode) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    (connection,) = login_node.connections
    before = connection._recv_seq
    for _ in range(ASKS):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
    # a keepalive may come in between
    assert ASKS <= connection._recv_seq - before <= ASKS + 10
    writer.close()


async def test_keys_are_exchanged_amid_data(login_node: LoginNode, store: Store) -> None:
    await login_node.stop()
    login_node.rekey_bytes = 300_000
    await login_node.start()
    gateway = Gateway(make_settings(login_node), store)
    data = bytes(range(256)) * 8000
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port)
        (connection,) = login_node.connections
        first = connection._send_encryption
        answers = await asyncio.gather(*(talk(gateway.forwarder.ports[0], data) for _ in range(3)))
        assert answers == [data] * 3
        assert connection._send_encryption is not first, "no keys were exchanged"
        assert gateway.tunnel.status().reconnects == 0


async def test_data_for_a_channel_that_is_gone_ends_the_connection_with_words(
    slot: int, gateway: Gateway, login_node: LoginNode
) -> None:
    (connection,) = login_node.connections
    # 94: data; a channel of which nobody knows
    connection.send_packet(94, (4711).to_bytes(4, "big"), (1).to_bytes(4, "big"), b"x")
    await until(lambda: gateway.tunnel.status().reconnects == 1)
    assert "4711" in gateway.tunnel.status().last_error
    assert await talk(slot, b"again") == b"again"


@pytest.mark.parametrize("spoilt", [b"", b"\0\0\0\x09x", b"\0\0\0\0more"])
async def test_data_that_is_no_data_ends_the_connection(
    slot: int, gateway: Gateway, login_node: LoginNode, spoilt: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    (connection,) = login_node.connections
    mine = next(channel._send_chan for channel in connection._channels.values())
    connection.send_packet(94, mine.to_bytes(4, "big"), spoilt)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 30)
    writer.close()
    await until(lambda: gateway.tunnel.status().reconnects == 1)


async def test_the_server_hears_goodbye(login_node: LoginNode, store: Store) -> None:
    heard: list[Exception | None] = []
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        (connection,) = login_node.connections
        server = connection._owner
        lost = server.connection_lost
        server.connection_lost = lambda exc: (heard.append(exc), lost(exc))
    await until(lambda: bool(heard))
    # a connection that only breaks is an error to the server
    assert heard[0] is None or isinstance(heard[0], asyncssh.DisconnectError)
    assert not isinstance(heard[0], asyncssh.ConnectionLost)
