"""A loop over a small Slurm whose tasks run at once, and the files that jobs write."""

from __future__ import annotations

import json

from bouchet_core.deployments import Deployment, Phase
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch import cancel as stopping
from bouchet_worker.launch import submit as submitting
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.fakes.slurm_gateway import FakeSlurm

from .conftest import SECRET, Clock, Slot0, requested

ROOT = "/home/researcher/bouchet-llm"


def write_connection(slurm: FakeSlurm, job_id: int, port: int = 20001, name: str = "", **more: object) -> None:
    document = {
        "job_name": name or slurm.jobs[job_id].name,
        "node": slurm.jobs[job_id].node,
        "port": port,
        "image": "cpu-0.32.0.sif",
        "image_sha256": "ab" * 32,
        "model_revision": "rev1",
        "vllm": "0.32.0",
        "gpus": ["NVIDIA H200, 580.1"],
        "command": ["vllm", "serve", "/m"],
        "something_new": 1,
        **more,
    }
    slurm.files[f"{ROOT}/logs/connection-{job_id}.json"] = json.dumps(document).encode()


def write_end(slurm: FakeSlurm, job_id: int, kind: str, sentence: str, tail: list[str] | None = None) -> None:
    note = {
        "job_name": slurm.jobs[job_id].name,
        "kind": kind,
        "sentence": sentence,
        "exit_status": 1,
        "tail": tail or [],
    }
    slurm.files[f"{ROOT}/logs/end-{job_id}.json"] = json.dumps(note).encode()


class Stage:
    """A loop whose tasks run at once."""

    def __init__(
        self, context: WorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
    ) -> None:
        self.context, self.slurm, self.slot0, self.clock = context, slurm, slot0, clock
        self.probe = SlotProbe("127.0.0.1", slot0.port, SECRET)
        self.enqueued: list[tuple[str, str]] = []
        self.loop = ReconcileLoop(context, Observer(gateway, context.layout, self.probe), self._enqueue)

    def _enqueue(self, task: str, deployment: str) -> None:
        self.enqueued.append((task, deployment))
        {"submit": submitting.submit, "cancel": stopping.stop}[task](self.context, deployment)

    def launch(self, identity: str = "aa", **options: object) -> int:
        self.context.store.create(requested(identity, self.clock(), **options))
        self.clock.advance(5)
        self.step()
        job = self.get(identity).job
        assert job is not None and job.slurm_id is not None
        self.slot0.vllm.job_name = job.name
        return job.slurm_id

    def ready(self) -> int:
        job_id = self.launch()
        self.slurm.start(job_id)
        write_connection(self.slurm, job_id)
        self.step(2)
        assert self.get().phase is Phase.READY
        return job_id

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.step()

    def get(self, identity: str = "aa") -> Deployment:
        return self.context.store.get(identity)
