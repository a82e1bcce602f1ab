"""`via: node`: forwards that end on the compute node itself, at a port or socket that nothing else can reach.

A further SSH connection goes through the one that is up, to a node where a job of the person runs. It asks nobody
anything: keys only, and the node's host key must be known to the person or to the login node, or be accepted with
`bouchet tunnel --trust`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncssh
from bouchet_core.errors import GatewayError

from bouchet_gateway.errors import NodeRefusedError

from .connect import Connector
from .fast_path.packets import Thrift

# where the nodes' host keys stand on a login node; read through the connection that is up
KNOWN_THERE = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2", ".ssh/known_hosts")
HOSTS_BYTES = 4 << 20
# health checks ask every few seconds while a job runs: a node that nobody asks for has none of ours any more
UNUSED_S = 300.0
# a node that let us not in is not asked again for every request
REFUSED_S = 5.0

ReadFile = Callable[[str, int, int], Awaitable[tuple[bytes, int]]]


@dataclass
class _Way:
    """The connection to one node, or why there is none."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: asyncssh.SSHClientConnection | None = None
    thrift: Thrift | None = None
    unused: asyncio.TimerHandle | None = None
    refused: NodeRefusedError | None = None
    refused_at: float = 0.0

    def close(self) -> None:
        if self.unused is not None:
            self.unused.cancel()
        if self.connection is not None and self.thrift is not None:
            self.thrift.end()
            self.connection.close()
        self.connection = self.thrift = None


class Nodes:
    """Connections to compute nodes, one each, through `gate`; a lost one is opened anew when it is wanted."""

    def __init__(self, connector: Connector, gate: asyncssh.SSHClientConnection, read: ReadFile) -> None:
        self._connector, self._gate, self._read = connector, gate, read
        self._ways: dict[str, _Way] = {}

    async def through(self, node: str) -> asyncssh.SSHClientConnection:
        """The connection to that node. Raises NodeRefusedError with what to do, TunnelDownError when `gate` broke."""
        way = self._ways.setdefault(node, _Way())
        async with way.lock:
            connection = way.connection
            if connection is None or connection.is_closed():
                connection = await self._connect(node, way)
        self._keep(node, way)
        return connection

    def words(self) -> dict[str, str]:
        """The nodes that are in use, each with what is wrong with it, if anything."""
        return {node: str(way.refused or "") for node, way in sorted(self._ways.items())}

    def close(self) -> None:
        """Ends them all."""
        for way in self._ways.values():
            way.close()
        self._ways.clear()

    async def _connect(self, node: str, way: _Way) -> asyncssh.SSHClientConnection:
        now = asyncio.get_running_loop().time()
        if way.refused is not None and now - way.refused_at < REFUSED_S:
            raise way.refused
        way.close()
        try:
            connection = await self._connector.to_node(node, self._gate, await self._hosts())
        except NodeRefusedError as refused:
            way.refused, way.refused_at = refused, asyncio.get_running_loop().time()
            self._keep(node, way)
            raise
        way.refused, way.connection, way.thrift = None, connection, Thrift(connection)
        return connection

    def _keep(self, node: str, way: _Way) -> None:
        """Until nobody has asked for the node for a while."""
        if way.unused is not None:
            way.unused.cancel()
        way.unused = asyncio.get_running_loop().call_later(UNUSED_S, self._forget, node)

    def _forget(self, node: str) -> None:
        way = self._ways.pop(node, None)
        if way is not None:
            way.close()

    async def _hosts(self) -> list[str]:
        """What the login node knows of its nodes' host keys; empty where it says nothing."""
        return [text for path in KNOWN_THERE if (text := await self._text(path))]

    async def _text(self, path: str) -> str:
        try:
            data, _ = await self._read(path, 0, HOSTS_BYTES)
        except GatewayError:
            return ""
        return data.decode("utf-8", errors="replace")
