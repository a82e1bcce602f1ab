"""Before a connection carries a key or a prompt, the server at its other end proves that it is the job's own vLLM.

A port of a shared node that a job has just left may be anybody's the next moment. The proof is the guard's
(remote/guard.py); a connection that has given it leads to the same process until it ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER, new_nonce, proves

from bouchet_proxy.routing.table import Route

from .connection import NoConnection, Wire

log = logging.getLogger(__name__)

# /health asks the engine too, which may be busy
PROOF_S = 30.0


class Stranger(NoConnection):
    """Another program answers there."""


@dataclass(frozen=True)
class Target:
    """A job's server behind its slot, and what only it can prove. port: its own on the node, 0 for a UNIX socket."""

    slot: int
    job_name: str
    key: str = field(repr=False)
    port: int
    gives_proof: bool


def target_of(route: Route, key: str) -> Target:
    """Where the route leads."""
    return Target(route.slot, route.job_name, key, route.port, route.proves)


async def prove(wire: Wire, host: str, target: Target) -> None:
    """Returns when the server at the other end has proved to hold the key; else raises WireError. Sends no key."""
    if not target.gives_proof:
        return
    nonce = new_nonce()
    await wire.post(f"GET /health HTTP/1.1\r\nhost: {host}\r\n{NONCE_HEADER}: {nonce}\r\n\r\n".encode(), b"", PROOF_S)
    while await wire.read():
        pass
    proof = wire.headers.get(PROOF_HEADER.encode(), b"").decode("latin-1")
    if not proves(target.key, nonce, target.port, proof) or not wire.kept:
        # a 503 is the gateway's own, which knows why nobody is there
        if wire.status != 503:
            log.warning(
                "slot=%d job=%s: another program answers there; it is sent nothing", target.slot, target.job_name
            )
        raise Stranger("another program answers there")
    wire.renew()
