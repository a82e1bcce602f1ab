"""Parts of worker tests: a clock, records, files of jobs, a fake vLLM, and a loop whose tasks run at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bouchet_core.deployments import Deployment, LaunchRequest, Phase
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import serving_key
from bouchet_core.tasks import TaskName
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer
from bouchet_worker.reconcile.step_reads import AT_ONCE

from tests.fakes.slurm_gateway import FakeSlurm
from tests.fakes.vllm.worker_server import WorkerVLLM

REPOSITORY = Path(__file__).parents[2]
# the demo site's root
ROOT = "/home/researcher/bouchet-llm"
SECRET = "serving-secret"
# a Wednesday in the middle of a month: no budget begins again within the hours of a test
MIDWEEK = datetime(2026, 11, 11, 12, tzinfo=UTC)
SLOTS = 4

MakeWorkerContext = Callable[..., WorkerContext]


@dataclass
class Clock:
    """The time of a test."""

    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def requested(identity: str, now: datetime, model: str = "demo/scripted", **options: Any) -> Deployment:
    """Return a record as the API creates it."""
    return Deployment(
        id=identity,
        model=model,
        names=(f"bouchet-{identity}",),
        request=LaunchRequest.model_validate({"model": model, **options}),
        created_at=now,
        updated_at=now,
    )


def write_connection(slurm: FakeSlurm, job_id: int, port: int = 20001, name: str = "", **more: object) -> None:
    """Write the file in which a job publishes where its vLLM listens."""
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
    """Write the file in which a job records why it ended."""
    document = {
        "job_name": slurm.jobs[job_id].name,
        "kind": kind,
        "sentence": sentence,
        "exit_status": 1,
        "tail": tail or [],
    }
    slurm.files[f"{ROOT}/logs/end-{job_id}.json"] = json.dumps(document).encode()


@dataclass
class Slot0:
    """The first slot: its port, and the vLLM behind it."""

    port: int
    vllm: type[WorkerVLLM]


class WorkerScenario:
    """A reconcile loop over a fake Slurm, whose tasks run at once."""

    def __init__(
        self,
        context: WorkerContext,
        gateway: GatewayClient,
        slot0: Slot0,
        slurm: FakeSlurm,
        clock: Clock,
        secret: str = SECRET,
    ) -> None:
        self.context, self.slurm, self.slot0, self.clock = context, slurm, slot0, clock
        self.probe = SlotProbe("127.0.0.1", slot0.port, secret)
        self.enqueued: list[tuple[str, str]] = []
        self.loop = ReconcileLoop(context, Observer(context, self.probe), self._enqueue, calm=AT_ONCE)

    def _enqueue(self, task: TaskName, deployment: str) -> None:
        self.enqueued.append((task, deployment))
        {TaskName.SUBMIT: submit, TaskName.CANCEL: cancel}[task](self.context, deployment)

    def launch(self, identity: str = "aa", **options: Any) -> int:
        """Create a deployment, let the loop submit it, and return its Slurm id."""
        self.context.store.create(requested(identity, self.clock(), **options))
        self.clock.advance(5)
        self.step()
        job = self.get(identity).job
        assert job is not None and job.slurm_id is not None
        self.slot0.vllm.key = serving_key(SECRET, job.name)
        return job.slurm_id

    def ready(self) -> int:
        """Launch a deployment, wait until it is ready, and return its Slurm id."""
        job_id = self.launch()
        self.slurm.start(job_id)
        write_connection(self.slurm, job_id)
        self.step(2)
        assert self.get().phase is Phase.READY
        return job_id

    def step(self, times: int = 1) -> None:
        """Run that many steps of the loop."""
        for _ in range(times):
            self.loop.step()

    def get(self, identity: str = "aa") -> Deployment:
        """Return the newest record."""
        return self.context.store.get(identity)
