"""The login node is reached soon after the network is back, by one connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from bouchet_gateway.ssh.tcp import TcpConnector, connect_first

from .conftest import tcp_server, until
from .test_forward import echo

EVERY_S = 0.05


@contextlib.contextmanager
def deaf_port() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A listener whose queue is full: the kernel drops every SYN, as a network that is away does."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filling = []
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            filling.append(filler)
        yield listener, filling


def there(sock: socket.socket) -> tuple[int, object]:
    return socket.AF_INET, sock.getsockname()


def waiting_tries() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if "_connect" in repr(task.get_coro())]


async def test_tries_overlap_and_one_is_left() -> None:
    loop = asyncio.get_running_loop()
    with deaf_port() as (listener, filling):
        trying = asyncio.ensure_future(connect_first([there(listener)], None, EVERY_S))
        # without a second one the kernel's own patience would decide
        await until(lambda: len(waiting_tries()) > 1)
        assert not trying.done()
        for filler in filling:
            filler.close()
        listener.setblocking(False)
        said: list[bytes] = []
        # the ones that filled the queue come first; a byte tells who stays
        while True:
            if trying.done():
                await loop.sock_sendall(trying.result(), b"me")
                break
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
            await asyncio.sleep(0.01)
        with trying.result() as ours:
            while ours.getsockname() not in said:
                peer, name = await asyncio.wait_for(loop.sock_accept(listener), 30)
                with peer:
                    heard = await asyncio.wait_for(loop.sock_recv(peer, 10), 30)
                assert heard == (b"me" if name == ours.getsockname() else b"")
                said.append(name)


async def test_a_refusal_is_said_at_once() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(connect_first([there(sock)], None, every_s=600), 30)


async def test_an_address_that_refuses_leaves_its_turn_to_the_next() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with tcp_server(echo) as port:
            sock = await connect_first([there(closed), (socket.AF_INET, ("127.0.0.1", port))], None)
            with sock:
                assert sock.getpeername()[1] == port


async def test_one_that_is_told_to_stop_leaves_no_socket() -> None:
    with deaf_port() as (listener, _):
        trying = asyncio.ensure_future(connect_first([there(listener)], None, EVERY_S))
        await asyncio.sleep(3 * EVERY_S)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        # a socket that nobody closed is a warning, and warnings are errors here
        await asyncio.sleep(0)


async def test_the_address_to_come_from_is_kept() -> None:
    async with tcp_server(echo) as port:
        transport, _ = await TcpConnector(local=("127.0.0.2", 0)).create_connection(asyncio.Protocol, "127.0.0.1", port)
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        transport.close()
