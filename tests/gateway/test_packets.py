"""What goes over the wire: nothing but what is needed, and a proper goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncssh
import pytest
from bouchet_core.models import TunnelState
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, make_settings, reached, serve_behind, tcp_server, until
from .test_forward import echo

ASKS = 50


@pytest.fixture
async def slot(gateway: Gateway, store: Store) -> AsyncIterator[int]:
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port)
        yield gateway.forwards.ports[0]


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
