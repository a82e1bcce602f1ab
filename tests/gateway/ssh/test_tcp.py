"""Overlapping TCP attempts: the first that connects is taken, refusals are reported, no socket leaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from bouchet_gateway.ssh.tcp import TcpConnector, connect_first

from tests.gateway.running import echo, tcp_server, wait_until

INTERVAL_S = 0.05


@contextlib.contextmanager
def full_listener() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """Yield a listener with a full queue, and the sockets in it: the kernel drops every SYN, as a lost network does."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queue = []
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            queue.append(filler)
        yield listener, queue


def address_of(sock: socket.socket) -> tuple[int, object]:
    return socket.AF_INET, sock.getsockname()


def attempts() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if "_connect" in repr(task.get_coro())]


async def test_connect_first_overlapping_attempts_leave_one_socket() -> None:
    loop = asyncio.get_running_loop()
    with full_listener() as (listener, fillers):
        connecting = asyncio.ensure_future(connect_first([address_of(listener)], None, INTERVAL_S))
        # with a single attempt the kernel's retransmission would decide
        await wait_until(lambda: len(attempts()) > 1)
        assert not connecting.done()
        for filler in fillers:
            filler.close()
        listener.setblocking(False)
        # the ones that filled the queue are accepted first; a byte identifies the socket that is kept
        while True:
            if connecting.done():
                await loop.sock_sendall(connecting.result(), b"me")
                break
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
            await asyncio.sleep(0.01)
        accepted: list[object] = []
        with connecting.result() as ours:
            while ours.getsockname() not in accepted:
                peer, name = await asyncio.wait_for(loop.sock_accept(listener), 30)
                with peer:
                    received = await asyncio.wait_for(loop.sock_recv(peer, 10), 30)
                assert received == (b"me" if name == ours.getsockname() else b"")
                accepted.append(name)


async def test_connect_first_refusal_raises_at_once() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(connect_first([address_of(sock)], None, interval_s=600), 30)


async def test_connect_first_refused_address_tries_next() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with tcp_server(echo) as port:
            sock = await connect_first([address_of(closed), (socket.AF_INET, ("127.0.0.1", port))], None)
            with sock:
                assert sock.getpeername()[1] == port


@pytest.mark.parametrize("refused_first", [True, False])
async def test_connect_first_refused_address_leaves_the_slow_one_its_time(refused_first: bool) -> None:
    """An address that is refused at once (IPv6 without a route) uses up no attempts of one whose SYN was lost."""
    with full_listener() as (listener, fillers), socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        addresses = [address_of(closed), address_of(listener)]
        connecting = asyncio.ensure_future(
            connect_first(addresses if refused_first else addresses[::-1], None, INTERVAL_S)
        )
        await asyncio.sleep(INTERVAL_S * 8)
        assert not connecting.done()
        for filler in fillers:
            filler.close()
        listener.setblocking(False)
        while not connecting.done():
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
            await asyncio.sleep(0.01)
        connecting.result().close()


async def test_connect_first_all_refused_raises_the_first_refusal() -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(connect_first([address_of(one), address_of(other)], None, 600), 30)


async def test_connect_first_cancelled_closes_its_sockets() -> None:
    with full_listener() as (listener, _):
        connecting = asyncio.ensure_future(connect_first([address_of(listener)], None, INTERVAL_S))
        await wait_until(lambda: len(attempts()) > 1)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        # a socket that is left open is a ResourceWarning, and warnings are errors in tests
        await asyncio.sleep(0)


async def test_tcp_connector_uses_local_address() -> None:
    async with tcp_server(echo) as port:
        connector = TcpConnector(local=("127.0.0.2", 0))
        transport, _ = await connector.create_connection(asyncio.Protocol, "127.0.0.1", port)
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        transport.close()
