"""`via: node`: forwards that end on the compute node itself, for sites whose login node may not reach its ports.

A further SSH connection goes through the one that is up, to a node where a job of the person runs. It asks nobody
anything: keys only, and the node's host key must be known to the person or to the login node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncssh
from bouchet_core.errors import GatewayError, HumanNeeded, RemoteRefused

from .packets import Thrift
from .ssh import Connector

# where the nodes' host keys stand on a login node; read through the connection that is up
KNOWN_THERE = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
LOGIN_TIMEOUT_S = 15.0
HOSTS_BYTES = 4 << 20

ReadFile = Callable[[str, int, int], Awaitable[tuple[bytes, int]]]


class Nodes:
    """Connections to compute nodes, one each, through `gate`; a lost one is opened anew when it is wanted."""

    def __init__(self, connector: Connector, gate: asyncssh.SSHClientConnection, read: ReadFile) -> None:
        self._connector, self._gate, self._read = connector, gate, read
        self._open: dict[str, tuple[asyncssh.SSHClientConnection, Thrift]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: list[str] | None = None

    async def through(self, node: str) -> asyncssh.SSHClientConnection:
        """The connection to that node. Raises RemoteRefused with what to do."""
        async with self._locks.setdefault(node, asyncio.Lock()):
            found = self._open.get(node)
            if found is None or found[0].is_closed():
                found = self._open[node] = await self._connect(node)
            return found[0]

    def close(self) -> None:
        """Ends them all."""
        for connection, thrift in self._open.values():
            thrift.end()
            connection.close()
        self._open.clear()

    async def _connect(self, node: str) -> tuple[asyncssh.SSHClientConnection, Thrift]:
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                connection = await self._connector.to_node(node, self._gate, await self._hosts())
        except TimeoutError as exc:
            raise RemoteRefused(f"ssh to {node} did not answer within {LOGIN_TIMEOUT_S:.0f} s") from exc
        except HumanNeeded as exc:
            raise RemoteRefused(f"{exc} (nodes are reached with `via: node`; `via: login` in the site file)") from exc
        return connection, Thrift(connection)

    async def _hosts(self) -> list[str]:
        """What the login node knows of its nodes' host keys; empty where it says nothing."""
        if self._known is None:
            self._known = [text for path in KNOWN_THERE if (text := await self._text(path))]
        return self._known

    async def _text(self, path: str) -> str:
        try:
            data, _ = await self._read(path, 0, HOSTS_BYTES)
        except GatewayError:
            return ""
        return data.decode("utf-8", errors="replace")
