"""A compute node's refusal of an ssh login reaches the health check of the deployment as it was sent."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bouchet_core.deployments import Job, Phase
from bouchet_core.errors import BouchetError, RemoteFileError
from bouchet_gateway.errors import NodeRefusedError
from bouchet_gateway.slots.forward import refusal
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.observation import HealthStatus

REASON = "cannot log in to node7: closed; it says: you have no active jobs on this node"


@contextmanager
def refusing_slot(error: BouchetError) -> Iterator[int]:
    """Serve a slot that sends the gateway's refusal to every client; yield its port."""

    class Refuse(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(refusal(error))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("error", "reason"), [(NodeRefusedError(REASON), REASON), (RemoteFileError("connection refused"), "")]
)
def test_health_has_the_reason_of_a_lasting_refusal_only(error: BouchetError, reason: str) -> None:
    job = Job(name="j", slot=0, phase=Phase.STARTING, node="node7", socket="/tmp/s")
    with refusing_slot(error) as port:
        probe = SlotProbe("127.0.0.1", port, "secret")
        found = probe.health(job)
        probe.close()
    assert (found.status, found.unreachable_reason, found.wrong_server) == (HealthStatus.FAILING, reason, False)
