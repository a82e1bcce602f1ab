"""Deployments with a policy, through the whole loop: a real Redis, a fake Slurm, and a server behind each slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import pytest
from bouchet_core.deployments import Deployment, Ending, Job, Phase, Traits
from bouchet_core.errors import StaleRecordError
from bouchet_core.keys import serving_key
from bouchet_core.policy import Budget, Policy, Replicas
from bouchet_core.store import Store
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_core.tasks import TaskName
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer
from bouchet_worker.service import engine_load

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm, serve_http
from tests.fakes.vllm.worker_server import WorkerVLLM, worker_vllm
from tests.worker.reconcile.unrecorded import flush
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


@pytest.fixture
def service(context: WorkerContext, redis_server: RedisServer, slurm: FakeSlurm, clock: Clock) -> Iterator[Service]:
    servers = [worker_vllm(window=4321, version="0.32.0+cpu") for _ in range(3)]
    with ExitStack() as stack:
        proxy = stack.enter_context(closing(redis_server.store("proxy")))
        probe = ManySlots([stack.enter_context(serve_http(server)) for server in servers])
        yield Service(context, proxy, slurm, clock, probe, servers)
        probe.close()


def live_names(record: Deployment) -> list[str]:
    return sorted(job.name for job in record.live_jobs)


def test_policy_submits_the_first_job_with_a_reason(service: Service) -> None:
    service.launch(FOREVER)
    service.step()
    assert live_names(service.record) == ["bouchet-aa-1"]
    assert service.job(1).phase is Phase.QUEUED and len(service.slurm.jobs) == 1
    first = service.record.service.decisions[0]
    assert (first.action, first.job) == ("submit", "bouchet-aa-1") and first.reason


def test_renewal_hands_over_and_retires_at_zero_open_requests(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.open_on = 1
    service.step(3)
    assert live_names(service.record) == ["bouchet-aa-1"], "nothing is due yet"
    service.pass_walltime(1, DUE_S)
    service.step(2)
    assert live_names(service.record) == ["bouchet-aa-1", "bouchet-aa-2"]
    assert service.job(2).replaces == "bouchet-aa-1" and service.job(1).slot != service.job(2).slot
    assert service.record.phase is Phase.READY and service.record.job_name == "bouchet-aa-1"
    service.step(5)
    assert len(service.slurm.jobs) == 2, "one successor is enough"
    service.start(2)
    service.step(2)
    assert service.job(1).leaving_since is not None and service.record.job_name == "bouchet-aa-2"
    service.step(5)
    assert service.job(1).stop_requested_at is None, "an answer is open on it"
    service.open_on = None
    service.step(2)
    assert service.job(1).stop_requested_at is not None
    assert ["scancel", "--batch", "--signal=TERM", "101"] in service.slurm.calls
    service.end(1, "COMPLETED")
    assert service.job(1).ending is Ending.COMPLETED and "retired" in service.job(1).reason
    assert service.record.phase is Phase.READY and service.record.ending is None
    assert service.context.store.take_slot("bb", "job", 4) == 0, "its slot is free again"


def test_job_without_a_fresh_report_of_the_proxy_is_not_retired(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    service.reports = False
    service.start(2)
    service.step()
    assert service.job(1).leaving_since is not None
    service.step(5)
    assert service.job(1).stop_requested_at is None


def test_successor_that_fails_three_times_pauses_and_says_why(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    for number in (2, 3, 4):
        service.step(2)
        service.end(number, "FAILED")
        service.clock.advance(250)
    service.step(4)
    record = service.record
    assert record.service.paused and "3 starts in a row failed" in record.service.paused
    assert len(service.slurm.jobs) == 4, "nothing more is submitted"
    service.end(1)
    assert service.record.phase is Phase.PARKED and service.record.reason == record.service.paused


def test_job_that_ends_unplanned_has_a_successor_at_once(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.end(1, "NODE_FAIL")
    service.step()
    assert live_names(service.record) == ["bouchet-aa-2"] and service.record.is_live
    assert any("node1 failed" in one.reason for one in service.record.service.decisions)


def test_on_demand_parks_at_once_and_wakes_for_a_request(service: Service) -> None:
    service.launch(ON_DEMAND, idle_timeout_min=10)
    service.step()
    assert service.record.phase is Phase.PARKED and not service.slurm.jobs
    service.step(3)
    assert not service.slurm.jobs
    service.proxy.load.want("aa", service.clock())
    service.step(2, held=1)
    assert [job.phase for job in service.record.jobs] == [Phase.QUEUED]
    assert service.record.service.parked_at is None
    assert service.record.service.decisions[-1].action == "wake"
    service.start(1)
    service.step(3)
    service.clock.advance(700)
    service.step(4)
    assert service.job(1).stop_requested_at is not None
    service.end(1, "COMPLETED")
    record = service.record
    assert (record.phase, record.is_live, record.ending) == (Phase.PARKED, True, None)
    assert "no request for" in record.reason


def test_open_request_keeps_an_idle_deployment(service: Service) -> None:
    service.launch(ON_DEMAND, idle_timeout_min=10)
    service.proxy.load.want("aa", service.clock())
    service.step(2, held=1)
    service.start(1)
    service.open_on = 1
    service.clock.advance(1500)
    service.step(4)
    assert service.record.phase is Phase.READY and service.job(1).leaving_since is None


def test_cancel_ends_all_jobs_and_the_deployment(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    cancel(service.context, "aa")
    service.step(2)
    for number in (1, 2):
        service.end(number, "CANCELLED")
    record = service.record
    assert (record.phase, record.ending) == (Phase.ENDED, Ending.CANCELLED)
    assert service.context.store.live() == []


def test_cancel_of_a_parked_deployment_ends_it(service: Service) -> None:
    service.launch(ON_DEMAND)
    service.step()
    assert cancel(service.context, "aa")
    assert service.record.ending is Ending.CANCELLED


def test_keep_that_is_over_ends_the_deployment(service: Service) -> None:
    service.launch(Policy(keep=service.clock() + timedelta(hours=2)))
    service.start(1)
    service.clock.advance(7200)
    service.step(4)
    assert service.record.stop_requested_at is not None
    service.end(1, "COMPLETED")
    assert service.record.phase is Phase.ENDED and "it was kept until" in service.record.reason


def crash(message: str) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise StaleRecordError(message)

    return fail


def test_worker_killed_between_plan_and_submission_leaves_one_successor(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.runs_tasks = False
    service.step(3)
    assert live_names(service.record) == ["bouchet-aa-1", "bouchet-aa-2"] and len(service.slurm.jobs) == 1
    service.runs_tasks = True
    service.loop = ReconcileLoop(service.context, service.loop.observer, service._enqueue)
    service.step(3)
    assert len(service.slurm.jobs) == 2 and service.job(2).slurm_id == 102


def test_plan_of_an_older_version_changes_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    monkeypatch.setattr(service.context.store, "save", crash("aa"))
    service.step(2)
    monkeypatch.undo()
    assert live_names(service.record) == ["bouchet-aa-1"] and len(service.slurm.jobs) == 1
    service.step(2)
    assert len(service.slurm.jobs) == 2


def test_both_jobs_are_found_again_after_redis_lost_its_data(service: Service, redis_server: RedisServer) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    assert len(service.slurm.jobs) == 2
    flush(redis_server)
    service.step(4)
    record = service.record
    assert live_names(record) == ["bouchet-aa-1", "bouchet-aa-2"] and record.policy == FOREVER
    assert len({job.slot for job in record.jobs}) == 2 and len(service.slurm.jobs) == 2


def test_budget_that_is_used_up_parks_after_the_open_answer(service: Service) -> None:
    service.launch(Policy(keep="forever", budget=Budget(amount=0.5)))
    service.start(1)
    # the job was submitted for what is left of the budget
    assert service.job(1).asked_walltime_s == 1800
    service.open_on = 1
    service.pass_walltime(1, 60)
    service.step(2)
    assert service.job(1).leaving_since is None or service.job(1).is_live
    service.clock.advance(90)
    service.step(2)
    assert service.job(1).leaving_since is not None and service.job(1).stop_requested_at is None
    service.open_on = None
    service.step(3)
    assert service.record.phase is Phase.PARKED
    assert "is used up" in service.record.reason


def test_load_that_lasts_adds_a_replica(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_load, "READ_EVERY_S", 0.0)
    service.launch(Policy(keep="forever", replicas=Replicas(low=1, high=2)))
    service.start(1)
    service.open_on = 1
    server = service.servers[service.job(1).slot]
    server.waiting = 9
    service.step(5)
    assert live_names(service.record) == ["bouchet-aa-1"], "a minute has not passed"
    service.step(12)
    assert live_names(service.record) == ["bouchet-aa-1", "bouchet-aa-2"]
    assert "9 requests wait" in service.record.service.decisions[-1].reason


def test_planned_maintenance_shortens_the_next_job(service: Service) -> None:
    start = int(service.clock().timestamp()) + 2400
    service.slurm.reservations = (
        f"ReservationName=maint StartTime={start} EndTime={start + 36_000} Duration=10:00:00 Nodes=n[1-9] "
        "PartitionName=(null) Flags=MAINT,IGNORE_JOBS,SPEC_NODES,ALL_NODES Users=root State=INACTIVE\n"
    )
    service.launch(FOREVER)
    service.step()
    asked_s = service.job(1).asked_walltime_s
    assert asked_s is not None and 0 < asked_s < 2400
    assert "to end before the maintenance" in service.record.service.decisions[0].reason
