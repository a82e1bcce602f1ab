"""The tunnel over networks that are slow, lose bytes, or fall silent in one direction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway

from tests.gateway.faulty_network import Link, link_to
from tests.gateway.login_node import LoginNode
from tests.gateway.running import echo, serve_behind, talk, tcp_server, wait_until

DELAY_S = 0.05
CLIENTS = 16


@pytest.fixture
async def link(login_node: LoginNode) -> AsyncIterator[Link]:
    """Yield the link that the gateway's connection goes over."""
    async with link_to(login_node.port) as link:
        hosts = login_node.ssh_dir / "known_hosts"
        hosts.write_text(hosts.read_text().replace(str(login_node.port), str(link.port)))
        yield link


@pytest.fixture
def ssh_changes(link: Link, fast_and_plain: dict[str, Any]) -> dict[str, Any]:
    return {"port": link.port, "handshake_timeout_s": 3, **fast_and_plain}


async def test_delay_many_clients_connect_in_parallel(gateway: Gateway, link: Link, store: Store) -> None:
    link.up.delay_s = link.down.delay_s = DELAY_S
    barrier = asyncio.Barrier(CLIENTS)

    async def echo_when_all_are_connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # clients that connect one after the other would never all be here
        await barrier.wait()
        await echo(reader, writer)

    async with tcp_server(echo_when_all_are_connected) as port:
        serve_behind(store, 1, port)
        began = time.monotonic()
        answers = await asyncio.gather(*(talk(gateway.forwarder.ports[1], b"%d" % n) for n in range(CLIENTS)))
    assert answers == [b"%d" % n for n in range(CLIENTS)]
    # a round trip for the channel, and one for its data
    assert time.monotonic() - began > 4 * DELAY_S
    assert gateway.tunnel.status().reconnects == 0


async def test_delay_bulk_data_arrives_whole(gateway: Gateway, link: Link, echo_slot: int) -> None:
    link.up.delay_s = link.down.delay_s = DELAY_S / 5
    data = bytes(range(256)) * 12_000
    assert await talk(echo_slot, data) == data
    assert gateway.tunnel.status().reconnects == 0


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_lost_bytes_end_in_error_and_not_in_wrong_data(
    gateway: Gateway, link: Link, echo_slot: int, direction: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    getattr(link, direction).lose_bytes = 7
    writer.write(b"after")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as caught:
        # the gap in the packet's length shows when the next packet arrives, which is a keepalive
        await asyncio.wait_for(reader.readexactly(5), 30)
    assert getattr(caught.value, "partial", b"") == b""
    writer.close()
    assert await talk(echo_slot, b"again") == b"again"
    assert gateway.tunnel.status().reconnects == 1


@pytest.mark.parametrize(("up", "down"), [(True, False), (False, True), (True, True)])
async def test_silent_link_is_noticed_and_waiting_clients_are_served(
    gateway: Gateway, link: Link, echo_slot: int, up: bool, down: bool
) -> None:
    assert await talk(echo_slot, b"x") == b"x"
    link.silence(up=up, down=down)
    # these connect before the gateway can notice
    early = [asyncio.create_task(talk(echo_slot, b"early %d" % n)) for n in range(CLIENTS)]
    await wait_until(lambda: gateway.tunnel.status().state is not TunnelState.UP)
    late = [asyncio.create_task(talk(echo_slot, b"late %d" % n)) for n in range(CLIENTS)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in (*early, *late))
    link.restore()
    assert await asyncio.gather(*early) == [b"early %d" % n for n in range(CLIENTS)]
    assert await asyncio.gather(*late) == [b"late %d" % n for n in range(CLIENTS)]


async def test_silent_link_resets_open_stream(gateway: Gateway, link: Link, echo_slot: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
    writer.write(b"begun")
    assert await reader.readexactly(5) == b"begun"
    link.silence()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 30)
    writer.close()
    link.restore()
    assert await talk(echo_slot, b"again") == b"again"
