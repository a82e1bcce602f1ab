"""One deployment with a policy under a whole loop: a real Redis, a fake Slurm, and a server behind each slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from bouchet_core.deployments import Deployment, Job, Phase, Traits
from bouchet_core.keys import serving_key
from bouchet_core.policy import Policy
from bouchet_core.store import Store
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_core.tasks import TaskName
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.fakes.slurm_gateway import FakeSlurm
from tests.fakes.vllm.worker_server import WorkerVLLM
from tests.worker.scenario import SECRET, Clock, requested, write_connection

# an answer may take 200 s, Slurm's warning comes 120 s before the end
TRAITS = Traits(max_output=8000)
DUE_S = 350
FOREVER = Policy(keep="forever")
ON_DEMAND = Policy(on_demand=True)


class ManySlots(SlotProbe):
    """A probe of slots whose servers listen anywhere."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__("127.0.0.1", 0, SECRET)
        self._ports = ports

    def _address(self, job: Job) -> str:
        return f"http://127.0.0.1:{self._ports[job.slot]}"


class Service:
    """One deployment with a policy, under a loop whose tasks run at once."""

    def __init__(
        self,
        context: WorkerContext,
        proxy: Store,
        slurm: FakeSlurm,
        clock: Clock,
        probe: SlotProbe,
        servers: list[type[WorkerVLLM]],
    ) -> None:
        # with the proxy's rights in Redis: it alone writes its load and the demand
        self.proxy = proxy
        self.context, self.slurm, self.clock, self.servers = context, slurm, clock, servers
        self.runs_tasks, self.reports = True, True
        # number of the job on which an answer is open
        self.open_on: int | None = None
        self.loop = ReconcileLoop(context, Observer(context, probe), self._enqueue)

    def _enqueue(self, task: TaskName, deployment: str) -> None:
        if self.runs_tasks:
            {TaskName.SUBMIT: submit, TaskName.CANCEL: cancel}[task](self.context, deployment)

    def launch(self, policy: Policy, **options: Any) -> None:
        record = requested("aa", self.clock(), time="01:00:00", **options)
        self.context.store.create(record.model_copy(update={"policy": policy, "traits": TRAITS}))
        self.step()

    @property
    def record(self) -> Deployment:
        return self.context.store.get("aa")

    def job(self, number: int) -> Job:
        return next(job for job in self.record.jobs if job.name == f"bouchet-aa-{number}")

    def step(self, times: int = 1, *, held: int = 0) -> None:
        """Run steps, each some seconds later and with a fresh report of the proxy."""
        for _ in range(times):
            self.clock.advance(6)
            if self.reports:
                self.report(held)
            self.loop.step()

    def report(self, held: int) -> None:
        jobs = {f"bouchet-aa-{self.open_on}": JobLoad(open=1)} if self.open_on is not None else {}
        now = self.clock()
        self.proxy.load.report(LoadReport(at=now, table_at=now, jobs=jobs, held={"aa": held}))

    def start(self, number: int) -> None:
        """Let Slurm start the job, and its server come up."""
        job = self.job(number)
        assert job.slurm_id is not None
        self.servers[job.slot].key = serving_key(SECRET, job.name)
        self.slurm.start(job.slurm_id, f"node{number}")
        write_connection(self.slurm, job.slurm_id, 20000 + number)
        self.step(2)
        assert self.job(number).phase is Phase.READY

    def end(self, number: int, state: str = "TIMEOUT") -> None:
        job = self.job(number)
        assert job.slurm_id is not None
        self.slurm.finish(job.slurm_id, state)
        self.step(2)

    def pass_walltime(self, number: int, left_s: float) -> None:
        """Move the clock to that long before the job's end."""
        deadline = self.job(number).deadline
        assert deadline is not None
        self.clock.moment = deadline - timedelta(seconds=left_s)


def live_names(record: Deployment) -> list[str]:
    """Return the names of its live jobs."""
    return sorted(job.name for job in record.live_jobs)
