"""What the gateway says where a compute node lets nobody in is what the deployment's record says."""

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

WORDS = "cannot log in to node7: closed; it says: you have no active jobs on this node"


@contextmanager
def slot_that_refuses(error: BouchetError) -> Iterator[int]:
    """A slot's port whose every caller hears the gateway's refusal."""

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
    ("error", "words"), [(NodeRefusedError(WORDS), WORDS), (RemoteFileError("nobody listens"), "")]
)
def test_only_what_time_does_not_mend_is_told(error: BouchetError, words: str) -> None:
    job = Job(name="j", slot=0, phase=Phase.STARTING, node="node7", socket="/tmp/s")
    with slot_that_refuses(error) as port:
        probe = SlotProbe("127.0.0.1", port, "secret")
        found = probe.health(job)
        probe.close()
    assert (found.status, found.unreachable_reason, found.wrong_server) == (HealthStatus.FAILING, words, False)
