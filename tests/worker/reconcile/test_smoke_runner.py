"""Smoke tests in the loop: one per start, and the loop never waits for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from bouchet_core.deployments import Job, Phase, Traits
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.context import StartWork, WorkerContext, start_thread
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer
from bouchet_worker.reconcile.smoke_runner import SmokeTestRunner, expected_model
from bouchet_worker.reconcile.step_reads import AT_ONCE

from tests.fakes.slurm_gateway import FakeSlurm, serve_http
from tests.fakes.vllm.worker_server import WorkerVLLM, worker_vllm
from tests.waiting import wait_for
from tests.worker.scenario import Clock, Slot0, WorkerScenario, requested, write_connection


class SmokeScenario(WorkerScenario):
    """A loop with smoke tests of the server behind its first slot, and a job that has just started."""

    def __init__(
        self,
        context: WorkerContext,
        gateway: GatewayClient,
        port: int,
        server: type[WorkerVLLM],
        slurm: FakeSlurm,
        clock: Clock,
        start: StartWork,
    ) -> None:
        super().__init__(context, gateway, Slot0(port, server), slurm, clock)
        self.server = server
        self.smoke_tests = SmokeTestRunner(self.probe, start)
        observer = Observer(context, self.probe, self.smoke_tests)
        self.loop = ReconcileLoop(context, observer, self._enqueue, smoke_tests=self.smoke_tests, calm=AT_ONCE)
        self.job_id = self.launch()
        job = self.get().job
        assert job is not None
        traits = {"traits": Traits(tool_parser="hermes")}
        context.store.update("aa", lambda d: d.moved(d.phase, clock()).model_copy(update=traits))
        slurm.start(self.job_id)
        write_connection(slurm, self.job_id)


MakeScenario = Callable[..., SmokeScenario]


def run_now(work: Callable[[], None]) -> None:
    work()


@pytest.fixture
def make_scenario(
    context: WorkerContext, gateway: GatewayClient, slurm: FakeSlurm, clock: Clock
) -> Iterator[MakeScenario]:
    with ExitStack() as opened:

        def make(start: StartWork = start_thread, **deviations: object) -> SmokeScenario:
            server = worker_vllm(**deviations)
            port = opened.enter_context(serve_http(server))
            made = SmokeScenario(context, gateway, port, server, slurm, clock, start)
            opened.callback(made.probe.close)
            return made

        yield make


def test_expected_window_is_last_one_on_the_command_line(clock: Clock) -> None:
    command = ("vllm", "serve", "m", "--max-model-len", "9", "--max-model-len", "7")
    record = requested("aa", clock(), max_len=1024).model_copy(update={"traits": Traits(tool_parser="hermes")})
    expected = expected_model(record, Job(name="bouchet-aa-1", slot=0, command=command))
    assert (expected.window, expected.name, expected.tool_parser) == (7, "bouchet-aa", "hermes")
    assert expected_model(record, Job(name="bouchet-aa-1", slot=0)).window is None


def test_deployment_is_ready_together_with_its_smoke_test(make_scenario: MakeScenario) -> None:
    scenario = make_scenario(run_now)
    scenario.step(2)
    record = scenario.get()
    assert record.phase is Phase.READY and record.reason == "" and record.job is not None
    assert record.job.smoke is not None and record.job.smoke.tools.result == "ok"
    version = record.version
    scenario.step(3)
    assert scenario.get().version == version, "one test per start"


def test_failed_tool_call_is_shown_in_record_and_event(make_scenario: MakeScenario) -> None:
    scenario = make_scenario(run_now, call="text")
    scenario.step(2)
    record = scenario.get()
    assert record.phase is Phase.READY and record.job is not None and record.job.smoke is not None
    assert record.job.smoke.without_tools and record.job.smoke.without_tools in record.reason
    last = scenario.context.store.events("0-0")[-1]
    assert (last.phase, last.reason) == (Phase.READY, record.reason)
    scenario.step(2)
    assert scenario.get().reason == record.reason


def test_slow_smoke_test_delays_ready_for_a_while_and_no_other_job(
    make_scenario: MakeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    scenario = make_scenario(gate=gate)
    scenario.step(2)
    record = scenario.get()
    assert record.phase is Phase.STARTING and "smoke test" in record.reason
    wait_for(lambda: scenario.server.received)
    key = scenario.server.key
    other = scenario.launch("bb", partition="gpu_h200")
    # one server plays both jobs; it stays the first one's
    scenario.server.key = key
    scenario.slurm.start(other)
    scenario.step()
    assert scenario.get("bb").phase is Phase.STARTING
    monkeypatch.setattr("bouchet_worker.reconcile.smoke_runner.READY_DELAY_MAX_S", 0.0)
    scenario.step()
    record = scenario.get()
    assert record.phase is Phase.READY and record.job is not None and record.job.smoke is None
    gate.set()
    wait_for(lambda: not scenario.smoke_tests.is_running)
    scenario.step()
    job = scenario.get().job
    assert job is not None and job.smoke is not None and job.smoke.chat.result == "ok"


def test_new_start_is_tested_again(make_scenario: MakeScenario) -> None:
    scenario = make_scenario(run_now, call="text")
    scenario.step(2)
    scenario.slurm.requeue(scenario.job_id)
    scenario.step()
    job = scenario.get().job
    assert job is not None and job.smoke is None
    scenario.server.call = "read"
    scenario.slurm.start(scenario.job_id, "node2")
    write_connection(scenario.slurm, scenario.job_id, 20002)
    scenario.step(3)
    record = scenario.get()
    assert record.phase is Phase.READY and record.reason == ""


def test_loop_wakes_up_when_a_smoke_test_finishes(make_scenario: MakeScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_worker.reconcile.loop.STEP_S", 600.0)
    # so that the deployment always waits for its test
    monkeypatch.setattr("bouchet_worker.reconcile.smoke_runner.READY_DELAY_MAX_S", 600.0)
    scenario = make_scenario()
    scenario.step()
    stopping = threading.Event()
    thread = threading.Thread(target=scenario.loop.run, args=(stopping,))
    thread.start()
    try:
        wait_for(lambda: scenario.get().phase is Phase.READY)
    finally:
        stopping.set()
        thread.join()
    job = scenario.get().job
    assert job is not None and job.smoke is not None
