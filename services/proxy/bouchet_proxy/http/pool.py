"""A pool of connections to the vLLM servers of jobs. A server is authenticated before it gets a key or a prompt.

A port of a shared node that a job has just left may belong to another user's program the next moment. So the server
proves first that it holds the job's key (guard.py makes the proof); a connection on which it did so leads to the
same process until it is closed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field

from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER, new_nonce, proves

from bouchet_proxy.routing.table import Route

from .connection import ConnectError, Connection, ReadTimeoutError

log = logging.getLogger(__name__)

# /health asks the engine too, which may be busy
PROOF_TIMEOUT_S = 30.0
# what the gateway answers when sshd could connect to nothing there
MAX_REFUSAL_BYTES, _REFUSED = (
    4 << 10,
    re.compile(rb'"kind": "remote_refused".*(?:Connection refused|No such file)', re.S),
)


class WrongServerError(ConnectError):
    """The server did not prove that it holds the job's key."""


class NothingListensError(WrongServerError):
    """The node refused the connection: the server has ended, or does not listen yet. The tunnel is up."""


@dataclass(frozen=True)
class JobServer:
    """A job's vLLM server behind its slot. port: its own on the node, 0 for a UNIX socket.

    authenticates: whether it can prove that it holds the key; servers of older job scripts cannot. resumes: whether it
    keeps answers whose connections are lost.
    """

    slot: int
    job_name: str
    key: str = field(repr=False)
    port: int
    authenticates: bool
    resumes: bool = False


def server_of(route: Route, key: str) -> JobServer:
    """Return the server that the route leads to."""
    return JobServer(route.slot, route.job_name, key, route.port, route.authenticates, route.resumes)


async def authenticate_server(connection: Connection, host: str, server: JobServer) -> None:
    """Return when the server has proved that it holds the key; no key is sent. Raises TransportError."""
    if not server.authenticates:
        return
    nonce = new_nonce()
    head = f"GET /health HTTP/1.1\r\nhost: {host}\r\n{NONCE_HEADER}: {nonce}\r\n\r\n"
    await connection.send(head.encode(), b"", PROOF_TIMEOUT_S)
    body = b""
    while piece := await connection.read():
        body += piece[:MAX_REFUSAL_BYTES]
    proof = connection.headers.get(PROOF_HEADER.encode(), b"").decode("latin-1")
    if not proves(server.key, nonce, server.port, proof) or not connection.reusable:
        # a 503 is the gateway's own, which logs the reason
        if connection.status == 503 and _REFUSED.search(body):
            raise NothingListensError("the node refused the connection")
        if connection.status != 503:
            log.warning(
                "slot=%d job=%s: another program listens on the job's port; no request is sent to it",
                server.slot,
                server.job_name,
            )
        raise WrongServerError("another program listens on the job's port")
    connection.reset_request_count()


# host, port, and the name of the job whose server is behind it
Origin = tuple[str, int, str]


class ConnectionPool:
    """Connections to the slots of one gateway: slot n listens on base_port + n.

    keepalive_s: how long an idle connection stays; it must be shorter than the server's own limit.
    """

    def __init__(self, host: str, base_port: int, keepalive_s: float, connect_timeout_s: float) -> None:
        self._host, self._base_port = host, base_port
        self._keepalive_s, self._connect_timeout_s = keepalive_s, connect_timeout_s
        self._idle: dict[Origin, list[tuple[Connection, float]]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None

    def take(self, server: JobServer) -> Connection | None:
        """Return an idle connection, None when there is none."""
        origin = self._origin(server)
        idle, now = self._idle.get(origin, []), asyncio.get_running_loop().time()
        while idle:
            connection, since = idle.pop()
            if not connection.closed and now - since < self._keepalive_s:
                return connection
            connection.close()
        self._idle.pop(origin, None)
        return None

    def host_of(self, server: JobServer) -> str:
        """Return the `host` header of requests to that server."""
        return f"{self._host}:{self._base_port + server.slot}"

    def has_idle(self, server: JobServer) -> bool:
        """Return whether there is an idle connection."""
        idle, now = self._idle.get(self._origin(server), []), asyncio.get_running_loop().time()
        return any(not one.closed and now - since < self._keepalive_s for one, since in idle)

    async def connect(self, server: JobServer) -> Connection:
        """Open a new connection and authenticate the server. Raises TransportError."""
        host, port, _ = self._origin(server)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
        except (OSError, TimeoutError) as exc:
            raise ConnectError(str(exc)) from exc
        try:
            await authenticate_server(connection, host, server)
        except ReadTimeoutError as exc:
            # nothing was asked yet: this is a server that cannot be reached, not one that takes long to answer
            connection.close()
            raise ConnectError(f"the server gave no proof for {PROOF_TIMEOUT_S:.0f} s") from exc
        except BaseException:
            connection.close()
            raise
        return connection

    def release(self, server: JobServer, connection: Connection) -> None:
        """Take the connection back for reuse when its response has been read; else close it."""
        if not connection.reusable:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(self._origin(server), []).append((connection, loop.time()))
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(self._keepalive_s, self._sweep)

    def close(self) -> None:
        """Close all idle connections."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection, _ in [one for idle in self._idle.values() for one in idle]:
            connection.close()
        self._idle.clear()

    def _sweep(self) -> None:
        """Close the connections that have been idle for too long; run again while there are idle ones."""
        loop = asyncio.get_running_loop()
        for origin, idle in list(self._idle.items()):
            for one in [one for one in idle if one[0].closed or loop.time() - one[1] >= self._keepalive_s]:
                one[0].close()
                idle.remove(one)
            if not idle:
                del self._idle[origin]
        self._sweep_timer = loop.call_later(self._keepalive_s, self._sweep) if self._idle else None

    def _origin(self, server: JobServer) -> Origin:
        return self._host, self._base_port + server.slot, server.job_name
