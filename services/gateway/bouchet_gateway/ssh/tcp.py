"""TCP connections to the login node while the network comes back.

The kernel retransmits a lost SYN after 1, 3 and 7 s, so an attempt that began too early succeeds late. Here a new
attempt begins every second beside those that wait; the first one that connects is taken and the others are closed. Only
one of them logs in, so there is only one login prompt.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

ATTEMPT_INTERVAL_S = 1.0
# with more than these under way, the kernel's own retransmissions are enough
MAX_ATTEMPTS = 16

_Address = tuple[int, Any]


class TcpConnector:
    """Opens TCP connections in overlapping attempts. It is passed to asyncssh as what to connect through (`tunnel`)."""

    def __init__(self, family: int = socket.AF_UNSPEC, local: tuple[str, int] | None = None) -> None:
        """family and local: AddressFamily and BindAddress of the ssh config."""
        self._family, self._local = family, local

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        """Return a transport and its protocol, as the event loop's method of this name does."""
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host, port, family=self._family, type=socket.SOCK_STREAM)
        sock = await connect_first([(int(address[0]), address[4]) for address in addresses], self._local)
        try:
            return await loop.create_connection(factory, sock=sock)
        except BaseException:
            sock.close()
            raise


async def connect_first(
    addresses: list[_Address], local: tuple[str, int] | None, interval_s: float = ATTEMPT_INTERVAL_S
) -> socket.socket:
    """Return the first socket that connects. addresses: (family, address), tried in turn.

    An address that refused is not tried again. Raises the first OSError when every address has refused and no attempt
    is under way; waits for ever where one does not answer.
    """
    attempts: dict[asyncio.Task[socket.socket], _Address] = {}
    remaining, failures = list(addresses), list[OSError]()
    try:
        for number in itertools.count():
            if remaining and len(attempts) < MAX_ATTEMPTS:
                address = remaining[number % len(remaining)]
                attempts[asyncio.ensure_future(_connect(*address, local))] = address
            timeout_s = interval_s if remaining else None
            done, _ = await asyncio.wait(attempts, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                refused = attempts.pop(ended)
                failure = ended.exception()
                if failure is None:
                    return ended.result()
                if not isinstance(failure, OSError):
                    raise failure
                failures.append(failure)
                remaining = [address for address in remaining if address != refused]
            if not remaining and not attempts:
                raise failures[0]
    finally:
        for attempt in attempts:
            _discard(attempt)
    raise AssertionError("itertools.count does not end")


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.done():
        attempt.cancel()
    elif not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect(family: int, address: Any, local: tuple[str, int] | None) -> socket.socket:
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
