"""The connection over links as laptops have them: far away, lossy, silent in one direction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, make_settings, reached, serve_behind, tcp_server, until
from .link import Link, link_to
from .test_forward import echo, talk

FAR_S = 0.05
ASKERS = 16


@pytest.fixture
async def link(login_node: LoginNode) -> AsyncIterator[Link]:
    """The link that the gateway's connection goes over."""
    async with link_to(login_node.port) as link:
        hosts = login_node.ssh_dir / "known_hosts"
        hosts.write_text(hosts.read_text().replace(str(login_node.port), str(link.port)))
        yield link


@pytest.fixture
async def gateway(login_node: LoginNode, link: Link, store: Store) -> AsyncIterator[Gateway]:
    settings = make_settings(login_node)
    ssh = settings.ssh.model_copy(update={"port": link.port, "handshake_timeout_s": 1})
    gateway = Gateway(settings.model_copy(update={"ssh": ssh}), store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        yield gateway


@pytest.fixture
async def slot(gateway: Gateway, store: Store) -> AsyncIterator[int]:
    """The port of slot 0, an echo server behind it."""
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port)
        yield gateway.forwarder.ports[0]


async def test_a_far_cluster_is_waited_for_once_not_in_a_row(gateway: Gateway, link: Link, store: Store) -> None:
    link.up.delay_s = link.down.delay_s = FAR_S
    all_here = asyncio.Barrier(ASKERS)

    async def echoes_when_all_are_here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # who asked in a row would never come together here
        await all_here.wait()
        await echo(reader, writer)

    async with tcp_server(echoes_when_all_are_here) as port:
        serve_behind(store, 1, port)
        began = time.monotonic()
        answers = await asyncio.gather(*(talk(gateway.forwarder.ports[1], b"%d" % n) for n in range(ASKERS)))
    assert answers == [b"%d" % n for n in range(ASKERS)]
    # a channel and its data: each a way there and back
    assert time.monotonic() - began > 4 * FAR_S
    assert gateway.tunnel.status().reconnects == 0


async def test_bulk_over_a_far_link_arrives_whole(gateway: Gateway, link: Link, slot: int) -> None:
    link.up.delay_s = link.down.delay_s = FAR_S / 2
    data = bytes(range(256)) * 12_000
    assert await talk(slot, data) == data
    assert gateway.tunnel.status().reconnects == 0


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_link_that_loses_bytes_gives_an_error_and_never_wrong_data(
    gateway: Gateway, link: Link, slot: int, way: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    getattr(link, way).lose = 7
    writer.write(b"after")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as caught:
        # no packet follows by itself that would show the hole in a packet's length, but a keepalive does
        await asyncio.wait_for(reader.readexactly(5), 30)
    assert getattr(caught.value, "partial", b"") == b""
    writer.close()
    assert await talk(slot, b"again") == b"again"
    assert gateway.tunnel.status().reconnects == 1


@pytest.mark.parametrize(("up", "down"), [(True, False), (False, True), (True, True)])
async def test_a_half_open_link_is_noticed_and_who_waits_is_served(
    gateway: Gateway, link: Link, slot: int, login_node: LoginNode, up: bool, down: bool
) -> None:
    assert await talk(slot, b"x") == b"x"
    link.silence(up=up, down=down)
    # asked before anybody can know
    early = [asyncio.create_task(talk(slot, b"early %d" % n)) for n in range(ASKERS)]
    await until(lambda: gateway.tunnel.status().state is not TunnelState.UP)
    late = [asyncio.create_task(talk(slot, b"late %d" % n)) for n in range(ASKERS)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in (*early, *late))
    link.restore()
    assert await asyncio.gather(*early) == [b"early %d" % n for n in range(ASKERS)]
    assert await asyncio.gather(*late) == [b"late %d" % n for n in range(ASKERS)]


async def test_a_stream_over_a_silent_link_ends_in_an_error(gateway: Gateway, link: Link, slot: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slot)
    writer.write(b"under way")
    assert await reader.readexactly(9) == b"under way"
    link.silence()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 30)
    writer.close()
    link.restore()
    assert await talk(slot, b"again") == b"again"


async def test_a_slow_login_is_waited_for(login_node: LoginNode, store: Store) -> None:
    login_node.slow_login_s = 0.6
    settings = make_settings(login_node)
    ssh = settings.ssh.model_copy(update={"handshake_timeout_s": 0.3, "login_timeout_s": 5})
    gateway = Gateway(settings.model_copy(update={"ssh": ssh}), store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
    assert login_node.accepted == 1


async def test_a_login_that_never_ends_is_given_up(login_node: LoginNode, store: Store) -> None:
    login_node.slow_login_s = 60
    settings = make_settings(login_node)
    gateway = Gateway(
        settings.model_copy(update={"ssh": settings.ssh.model_copy(update={"login_timeout_s": 0.3})}), store
    )
    async with gateway.running():
        status = await reached(gateway, TunnelState.DOWN)
    assert "did not answer within" in status.detail and "(login)" in status.detail
