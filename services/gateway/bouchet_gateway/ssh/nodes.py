"""Connections to compute nodes (`via: node`), for forwards to a port or socket that only the node itself can reach.

Each goes through the one connection that is up, to a node where a job of the user runs. It uses keys only, no prompts.
The node's host key must be known to the user or to the login node, or be accepted with `bouchet tunnel --trust`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncssh
from bouchet_core.errors import GatewayError

from bouchet_gateway.errors import NodeRefusedError

from .connect import Connector
from .fast_path.switch import disable_fast_path

# files with the nodes' host keys on a login node; read through the connection that is up
KNOWN_HOSTS_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2", ".ssh/known_hosts")
MAX_KNOWN_HOSTS_BYTES = 4 << 20
# a running job has health checks, mostly over one kept channel: a node without any for this long runs no job of ours
IDLE_TIMEOUT_S = 300.0
# a node that refused the login is not tried again for every request
RETRY_REFUSED_AFTER_S = 5.0

ReadFile = Callable[[str, int, int], Awaitable[tuple[bytes, int]]]


@dataclass
class NodeConnection:
    """The connection to one node, or why there is none. `opening`: channels on their way; `channels`: open ones."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    opening: int = 0
    channels: set[asyncio.Task[None]] = field(default_factory=set)
    connection: asyncssh.SSHClientConnection | None = None
    idle_timer: asyncio.TimerHandle | None = None
    refusal: NodeRefusedError | None = None
    refused_at: float = 0.0

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        if self.connection is not None:
            disable_fast_path(self.connection)
            self.connection.close()
        self.connection = None


class NodeConnections:
    """One connection to each compute node in use, through `login_connection`; opened again when needed."""

    def __init__(self, connector: Connector, login_connection: asyncssh.SSHClientConnection, read: ReadFile) -> None:
        self._connector, self._login_connection, self._read = connector, login_connection, read
        self._nodes: dict[str, NodeConnection] = {}

    @contextlib.asynccontextmanager
    async def connected(self, node: str) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Yield the connection to that node, open at least until the block ends, and while a kept channel is open.

        Raises NodeRefusedError, or TunnelDownError when the tunnel broke.
        """
        entry = self._nodes.setdefault(node, NodeConnection())
        entry.opening += 1
        try:
            async with entry.lock:
                connection = entry.connection
                if connection is None or connection.is_closed():
                    connection = await self._open(node, entry)
            yield connection
        finally:
            entry.opening -= 1
            self._restart_idle_timer(node, entry)

    def keep_for(self, node: str, channel: Any) -> None:
        """Keep the node's connection open until this channel of it is closed."""
        entry = self._nodes.get(node)
        if entry is None:
            # all connections were closed meanwhile
            return
        closed: asyncio.Task[None] = asyncio.ensure_future(channel.wait_closed())
        entry.channels.add(closed)
        closed.add_done_callback(entry.channels.discard)
        closed.add_done_callback(lambda _: self._restart_idle_timer(node, entry))

    def problems(self) -> dict[str, str]:
        """Return the nodes in use, each with its error message, empty when fine."""
        return {node: str(entry.refusal or "") for node, entry in sorted(self._nodes.items())}

    def close(self) -> None:
        """Close all connections."""
        for entry in self._nodes.values():
            entry.close()
        self._nodes.clear()

    async def _open(self, node: str, entry: NodeConnection) -> asyncssh.SSHClientConnection:
        now = asyncio.get_running_loop().time()
        if entry.refusal is not None and now - entry.refused_at < RETRY_REFUSED_AFTER_S:
            raise entry.refusal
        entry.close()
        try:
            hosts = await self._known_hosts()
            connection = await self._connector.connect_node(node, self._login_connection, hosts)
        except NodeRefusedError as refusal:
            entry.refusal, entry.refused_at = refusal, asyncio.get_running_loop().time()
            raise
        entry.refusal, entry.connection = None, connection
        return connection

    def _restart_idle_timer(self, node: str, entry: NodeConnection) -> None:
        """Begin to count idle time, unless the node is in use or the connections are closed."""
        if entry.idle_timer is not None:
            entry.idle_timer.cancel()
        if not entry.opening and not entry.channels and self._nodes.get(node) is entry:
            entry.idle_timer = asyncio.get_running_loop().call_later(IDLE_TIMEOUT_S, self._drop, node)

    def _drop(self, node: str) -> None:
        entry = self._nodes.get(node)
        # a channel may have begun to open since the timer was started
        if entry is not None and not entry.opening and not entry.channels:
            del self._nodes[node]
            entry.close()

    async def _known_hosts(self) -> list[str]:
        """Return the known_hosts files of the login node that can be read."""
        return [text for path in KNOWN_HOSTS_FILES if (text := await self._text(path))]

    async def _text(self, path: str) -> str:
        try:
            data, _ = await self._read(path, 0, MAX_KNOWN_HOSTS_BYTES)
        except GatewayError:
            return ""
        return data.decode("utf-8", errors="replace")
