"""Steps of the loop, against a real Redis, a fake Slurm and a server behind the slot."""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis
from bouchet_core.deployments import Ending, Phase
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.policy import Policy
from bouchet_core.tasks import TaskName
from bouchet_core.tunnel import SlotTarget
from bouchet_worker.launch.submit import cancel, submit

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm, job_ids
from tests.worker.scenario import (
    ROOT,
    Clock,
    MakeWorkerContext,
    Slot0,
    WorkerScenario,
    requested,
    write_connection,
    write_end,
)

KEPT = Policy(keep="forever")


def test_step_sends_nothing_to_the_cluster_while_nothing_is_live(scenario: WorkerScenario) -> None:
    scenario.step()
    assert scenario.slurm.programs() == ["squeue"], "unrecorded jobs may run"
    scenario.step(3)
    assert scenario.slurm.programs() == ["squeue"]


@pytest.mark.parametrize("parts", [1, 4])
def test_step_asks_redis_a_few_times_however_many_deployments_there_are(
    scenario: WorkerScenario, redis_server: RedisServer, parts: int
) -> None:
    for number in range(parts):
        job_id = scenario.launch(f"a{number}")
        scenario.context.store.update(f"a{number}", lambda old: old.model_copy(update={"policy": KEPT}))
        scenario.slurm.start(job_id)
        write_connection(scenario.slurm, job_id)
        scenario.step(2)
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:

        def reads() -> int:
            return int(cast("Any", client.info("stats"))["total_reads_processed"])

        scenario.step()
        before = reads()
        scenario.step(10)
        # one at the beginning, one before records are decided on, one for the plans of their policies
        assert (reads() - before - 1) / 10 <= 3


def test_deployment_goes_from_request_to_ready_to_cancelled(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    scenario.step()
    assert "Priority" in scenario.get().reason
    scenario.slot0.vllm.state = "down"
    scenario.slurm.start(job_id)
    scenario.slurm.files[f"{ROOT}/logs/{job_id}.log"] = b"bouchet: checking the image\n"
    scenario.step()
    assert scenario.get().phase is Phase.STARTING
    scenario.step()
    assert scenario.get().reason == "checking the image"
    write_connection(scenario.slurm, job_id)
    scenario.step()
    target = scenario.context.store.slot_target(0)
    assert target is not None and (target.node, target.port) == ("node1", 20001)
    scenario.slot0.vllm.state = "up"
    scenario.step()
    record = scenario.get()
    assert record.phase is Phase.READY and record.reason == "" and record.job is not None
    job = record.job
    assert (job.window, job.vllm_version) == (4321, "0.32.0+cpu")
    assert (job.model_revision, job.image_sha256) == ("rev1", "ab" * 32)
    assert set(job.since) == {Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.READY}
    scenario.context.store.update("aa", lambda d: d.asked_to_stop(scenario.clock()))
    scenario.step(2)
    ended = scenario.get()
    assert (ended.phase, ended.ending) == (Phase.ENDED, Ending.CANCELLED)
    assert scenario.context.store.slot_target(0) is None
    calls = len(scenario.slurm.calls)
    scenario.step(2)
    assert len(scenario.slurm.calls) == calls


def test_step_writes_a_forged_or_unsigned_target_again(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    scenario.ready()
    store = scenario.context.store
    signed = store.slot_target(0)
    forged = SlotTarget(node="203.0.113.7", port=443, deployment="aa").model_dump_json()
    with redis.Redis("127.0.0.1", redis_server.port, password=redis_server.password) as raw:
        raw.hset(store.keys.targets, "0", forged)
    scenario.step()
    assert signed is not None and store.slot_target(0) == signed


def test_step_without_news_keeps_record_version(scenario: WorkerScenario) -> None:
    scenario.ready()
    version = scenario.get().version
    scenario.step(5)
    assert scenario.get().version == version


@pytest.mark.slow
def test_step_runs_one_squeue_for_fifty_jobs(
    make_context: MakeWorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> None:
    scenario = WorkerScenario(make_context(slot_count=50), gateway, slot0, slurm, clock)
    for n in range(50):
        scenario.context.store.create(requested(f"d{n}", clock(), partition="gpu_h200"))
        submit(scenario.context, f"d{n}")
    slurm.calls.clear()
    scenario.step()
    assert slurm.programs() == ["squeue"]
    scenario.probe.close()


@pytest.mark.parametrize("kind", ["tunnel_down", "human_needed", "command_timeout"])
def test_gateway_failure_keeps_deployment(scenario: WorkerScenario, kind: str) -> None:
    scenario.ready()
    before = scenario.get()
    scenario.slurm.fault = lambda method, what: kind
    scenario.clock.advance(3600)
    scenario.step(3)
    assert scenario.get() == before


@pytest.mark.parametrize(
    ("status", "output"),
    [(1, "slurm_load_jobs error: Unable to contact slurm controller"), (0, "not a row of squeue")],
)
def test_squeue_failure_keeps_deployment(
    scenario: WorkerScenario, status: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.ready()
    before = scenario.get()
    monkeypatch.setattr(scenario.slurm, "squeue", lambda arguments: (status, output, output))
    scenario.step(3)
    assert scenario.get() == before


def test_unreadable_job_files_keep_deployment_ready(scenario: WorkerScenario) -> None:
    scenario.ready()
    scenario.slurm.fault = lambda method, what: "remote_refused" if method == "GET" else None
    scenario.step(2)
    assert scenario.get().phase is Phase.READY


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        ("FAILED", Ending.FAILED),
        ("TIMEOUT", Ending.TIMED_OUT),
        ("NODE_FAIL", Ending.FAILED),
        ("OUT_OF_MEMORY", Ending.FAILED),
        ("CANCELLED by 0", Ending.CANCELLED),
    ],
)
@pytest.mark.parametrize("forgot", [False, True], ids=["slurmctld", "accounting"])
def test_job_that_left_the_queue_ends_deployment(
    scenario: WorkerScenario, state: str, ending: Ending, forgot: bool
) -> None:
    job_id = scenario.ready()
    scenario.slurm.finish(job_id, state, "1:0")
    if forgot:
        scenario.slurm.controller_forgot.add(job_id)
    scenario.step()
    record = scenario.get()
    assert (record.phase, record.ending) == (Phase.ENDED, ending)
    assert record.reason and record.job is not None and record.job.exit_code == "1:0"


def test_runaway_job_can_be_cancelled(scenario: WorkerScenario) -> None:
    job_id = scenario.ready()
    scenario.slurm.lost_ends.add(job_id)
    scenario.slot0.vllm.state = "down"
    scenario.step()
    assert scenario.get().phase is Phase.READY
    cancel(scenario.context, "aa")
    scenario.clock.advance(3600)
    scenario.step()
    record = scenario.get()
    assert (record.phase, record.ending) == (Phase.ENDED, Ending.CANCELLED)
    assert "accounting still reports RUNNING" in record.reason
    assert scenario.context.store.slot_target(0) is None and scenario.context.store.take_slot("bb", "job", 4) == 0


def test_end_file_explains_why_vllm_ended(scenario: WorkerScenario) -> None:
    job_id = scenario.ready()
    write_end(scenario.slurm, job_id, "vllm_exited", "vLLM ended with status 1", ["ValueError: no such parser"])
    scenario.slurm.finish(job_id, "FAILED", "1:0")
    scenario.step()
    assert scenario.get().reason == "vLLM ended with status 1: ValueError: no such parser"


def test_idle_job_ends_as_idle(scenario: WorkerScenario) -> None:
    job_id = scenario.ready()
    write_end(scenario.slurm, job_id, "idle", "idle for 45 min")
    scenario.slurm.finish(job_id, "COMPLETED")
    scenario.step()
    ended = scenario.get()
    assert ended.ending is Ending.IDLE and "`bouchet launch demo/scripted`" in ended.reason


def test_warning_of_the_job_is_shown_while_it_lasts(scenario: WorkerScenario) -> None:
    scenario.ready()
    scenario.slot0.vllm.warning = "no requests for 36 min"
    scenario.step()
    assert scenario.get().reason == "no requests for 36 min"
    scenario.slot0.vllm.warning = ""
    scenario.step()
    assert scenario.get().reason == ""


def test_job_unknown_to_slurm_ends_deployment_only_when_it_does_not_answer(scenario: WorkerScenario) -> None:
    job_id = scenario.ready()
    del scenario.slurm.jobs[job_id]
    scenario.slot0.vllm.state = "down"
    scenario.step()
    assert scenario.get().is_live
    scenario.clock.advance(120)
    scenario.slot0.vllm.state = "up"
    scenario.step()
    assert scenario.get().is_live
    scenario.slot0.vllm.state = "down"
    scenario.step()
    assert scenario.get().ending is Ending.FAILED


def test_draining_server_makes_deployment_draining(scenario: WorkerScenario) -> None:
    scenario.ready()
    scenario.slot0.vllm.state = "draining"
    scenario.step()
    assert scenario.get().phase is Phase.DRAINING


def test_lost_task_is_enqueued_again_but_not_at_every_step(scenario: WorkerScenario) -> None:
    scenario.context.store.create(requested("aa", scenario.clock()))
    scenario.step()
    assert scenario.enqueued == [], "the API's own task may still run"
    scenario.slurm.fault = lambda method, what: "tunnel_down"
    scenario.clock.advance(10)
    scenario.step(5)
    assert scenario.enqueued == [(TaskName.SUBMIT, "aa")]


def test_only_one_of_two_loops_works(
    scenario: WorkerScenario,
    make_context: MakeWorkerContext,
    gateway: GatewayClient,
    slot0: Slot0,
    slurm: FakeSlurm,
    clock: Clock,
) -> None:
    scenario.step()
    other = WorkerScenario(make_context("worker-2"), gateway, slot0, slurm, clock)
    other.context.store.create(requested("aa", clock()))
    clock.advance(10)
    calls = list(slurm.calls)
    other.step()
    assert slurm.calls == calls
    scenario.step()
    assert job_ids(slurm) == [101]
    other.probe.close()
