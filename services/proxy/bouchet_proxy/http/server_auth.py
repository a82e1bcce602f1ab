"""Server authentication: before a connection carries a key or a prompt, the server proves that it is the job's vLLM.

A port of a shared node that a job has just left may belong to another user's program the next moment. The proof is made
by remote/guard.py; a connection on which it was given leads to the same process until it is closed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER, new_nonce, proves

from bouchet_proxy.routing.table import Route

from .connection import ConnectError, Connection

log = logging.getLogger(__name__)

# /health asks the engine too, which may be busy
PROOF_TIMEOUT_S = 30.0


class WrongServerError(ConnectError):
    """The server did not prove that it holds the job's key."""


@dataclass(frozen=True)
class JobServer:
    """A job's vLLM server behind its slot. port: its own on the node, 0 for a UNIX socket.

    authenticates: whether it can prove that it holds the key; servers of older job scripts cannot.
    """

    slot: int
    job_name: str
    key: str = field(repr=False)
    port: int
    authenticates: bool


def server_of(route: Route, key: str) -> JobServer:
    """Return the server that the route leads to."""
    return JobServer(route.slot, route.job_name, key, route.port, route.authenticates)


async def authenticate_server(connection: Connection, host: str, server: JobServer) -> None:
    """Return when the server has proved that it holds the key; no key is sent. Raises TransportError."""
    if not server.authenticates:
        return
    nonce = new_nonce()
    head = f"GET /health HTTP/1.1\r\nhost: {host}\r\n{NONCE_HEADER}: {nonce}\r\n\r\n"
    await connection.send(head.encode(), b"", PROOF_TIMEOUT_S)
    while await connection.read():
        pass
    proof = connection.headers.get(PROOF_HEADER.encode(), b"").decode("latin-1")
    if not proves(server.key, nonce, server.port, proof) or not connection.reusable:
        # a 503 is the gateway's own, which logs the reason
        if connection.status != 503:
            log.warning(
                "slot=%d job=%s: another program listens on the job's port; no request is sent to it",
                server.slot,
                server.job_name,
            )
        raise WrongServerError("another program listens on the job's port")
    connection.reset_request_count()
