"""Reaching the login node while the network comes back.

A lost SYN is sent again by the kernel after 1, 3 and 7 s, so a try that began too early comes through late. A new try
begins every second beside those that wait; the first one through is taken, and the others end without a word: only one
ever logs in, so nobody is asked twice.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

EVERY_S = 1.0
# beyond these the kernel's own patience is enough
MOST = 16

_Address = tuple[int, Any]


class Reach:
    """Stands where asyncssh expects what it may connect through (`tunnel`)."""

    def __init__(self, family: int = socket.AF_UNSPEC, local: tuple[str, int] | None = None) -> None:
        """family and local: AddressFamily and BindAddress of the ssh config."""
        self._family, self._local = family, local

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        """As the loop's: a transport and its protocol."""
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host, port, family=self._family, type=socket.SOCK_STREAM)
        sock = await first_of([(int(address[0]), address[4]) for address in addresses], self._local)
        try:
            return await loop.create_connection(factory, sock=sock)
        except BaseException:
            sock.close()
            raise


async def first_of(addresses: list[_Address], local: tuple[str, int] | None, every_s: float = EVERY_S) -> socket.socket:
    """The first socket that is connected. addresses: (family, address), tried in turn.

    Raises the first OSError when every address has refused; waits for ever where nothing answers.
    """
    tries: set[asyncio.Task[socket.socket]] = set()
    refusals: list[OSError] = []
    try:
        for number in itertools.count():
            if len(tries) < MOST:
                tries.add(asyncio.ensure_future(_connected(*addresses[number % len(addresses)], local)))
            done, _ = await asyncio.wait(tries, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                tries.discard(ended)
                refusal = ended.exception()
                if refusal is None:
                    return ended.result()
                if not isinstance(refusal, OSError):
                    raise refusal
                refusals.append(refusal)
            if len(refusals) >= len(addresses):
                raise refusals[0]
    finally:
        for late in tries:
            _end(late)
    raise AssertionError("itertools.count has no end")


def _end(late: asyncio.Task[socket.socket]) -> None:
    if not late.done():
        late.cancel()
    elif not late.cancelled() and late.exception() is None:
        late.result().close()


async def _connected(family: int, address: Any, local: tuple[str, int] | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if local:
            sock.bind(local)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
