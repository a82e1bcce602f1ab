"""When the fast path is on, what it changes, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh.fast_path import switch
from bouchet_gateway.ssh.fast_path.switch import ASYNCSSH_VERSIONS, disable_fast_path, fast_path_of

from tests.gateway.login_node import LoginNode
from tests.gateway.running import connected, echo, serve_behind, talk, tcp_server, wait_for_reconnect, wait_until

REQUESTS = 50


@pytest.fixture
def ssh_changes() -> dict[str, Any]:
    return {}


async def connection_of(gateway: Gateway) -> asyncssh.SSHClientConnection:
    """Return asyncssh's connection."""
    return (await gateway.tunnel.session(1))._connection


def test_installed_asyncssh_is_supported() -> None:
    assert asyncssh.__version__ in ASYNCSSH_VERSIONS


async def test_fast_path_sends_one_packet_per_request(echo_slot: int, login_node: LoginNode) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    connection: Any = next(iter(login_node.connections))
    before = connection._recv_seq
    for _ in range(REQUESTS):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
    # some keepalives may be among them
    assert REQUESTS <= connection._recv_seq - before <= REQUESTS + 10
    writer.close()


async def test_fast_path_closed_channel_is_forgotten(echo_slot: int, gateway: Gateway) -> None:
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        await writer.wait_closed()
    fast_path = fast_path_of(await connection_of(gateway))
    assert fast_path is not None
    await wait_until(lambda: not fast_path.channels)


async def test_setting_off_leaves_asyncssh_unchanged(login_node: LoginNode, store: Store) -> None:
    async with connected(login_node, store, ssh={"fast_path": False}) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, port)
        connection = await connection_of(gateway)
        assert await talk(gateway.forwarder.ports[0], b"plain") == b"plain"
        assert fast_path_of(connection) is None
        assert not {"send_packet", "_send", "data_received", "_recv_pkthdr"} & set(vars(connection))


async def test_unknown_asyncssh_version_falls_back_with_one_log_line(
    login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(switch, "ASYNCSSH_VERSIONS", frozenset({"0.0.1"}))
    switch._log_unknown_version.cache_clear()
    with caplog.at_level(logging.WARNING, "bouchet_gateway"):
        async with connected(login_node, store) as gateway, tcp_server(echo) as port:
            serve_behind(store, 0, port)
            assert fast_path_of(await connection_of(gateway)) is None
            assert await talk(gateway.forwarder.ports[0], b"plain") == b"plain"
            login_node.cut()
            await wait_for_reconnect(gateway)
            assert fast_path_of(await connection_of(gateway)) is None
    assert [record.args for record in caplog.records if "fast path" in record.getMessage()] == [
        (asyncssh.__version__, "0.0.1")
    ]


async def test_disable_restores_asyncssh_methods_and_connection_works(gateway: Gateway, echo_slot: int) -> None:
    assert await talk(echo_slot, b"fast") == b"fast"
    connection = await connection_of(gateway)
    disable_fast_path(connection)
    assert fast_path_of(connection) is None
    assert await talk(echo_slot, b"plain") == b"plain"
    assert gateway.tunnel.status().reconnects == 0


@pytest.mark.parametrize("fast_path", [True, False])
async def test_stop_sends_disconnect_to_server(login_node: LoginNode, store: Store, fast_path: bool) -> None:
    async with connected(login_node, store, ssh={"fast_path": fast_path}):
        pass
    await wait_until(lambda: bool(login_node.lost))
    # a connection that only breaks is an error to the server
    assert login_node.lost[0] is None or isinstance(login_node.lost[0], asyncssh.DisconnectError)
    assert not isinstance(login_node.lost[0], asyncssh.ConnectionLost)
