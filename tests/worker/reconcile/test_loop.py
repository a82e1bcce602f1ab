"""The loop and its looks, against a real Redis, a small Slurm and a server behind the slot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch import submit as submitting
from rq import Queue
from rq.serializers import JSONSerializer

from tests.conftest import RedisServer, start_redis
from tests.fakes.slurm_gateway import TOKEN, FakeSlurm, job_ids, running_gateway
from tests.worker.scenario import (
    REPOSITORY,
    ROOT,
    SECRET,
    Clock,
    MakeWorkerContext,
    Slot0,
    WorkerScenario,
    requested,
    write_connection,
    write_end,
)

READY_TIMEOUT_S = 60.0


@pytest.fixture
def stage(
    context: WorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> Iterator[WorkerScenario]:
    stage = WorkerScenario(context, gateway, slot0, slurm, clock)
    yield stage
    stage.probe.close()


def test_nothing_is_asked_while_nothing_lives(stage: WorkerScenario) -> None:
    stage.step()
    assert stage.slurm.programs() == ["squeue"], "jobs may run that have no record"
    stage.step(3)
    assert stage.slurm.programs() == ["squeue"]


def test_from_request_to_ready_and_to_cancelled(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    stage.step()
    assert "Priority" in stage.get().reason
    stage.slot0.vllm.state = "down"
    stage.slurm.start(job_id)
    stage.slurm.files[f"{ROOT}/logs/{job_id}.log"] = b"bouchet: checking the image\n"
    stage.step()
    assert stage.get().phase is Phase.STARTING
    stage.step()
    assert stage.get().reason == "checking the image"
    write_connection(stage.slurm, job_id)
    stage.step()
    target = stage.context.store.slot_target(0)
    assert target is not None and (target.node, target.port) == ("node1", 20001)
    stage.slot0.vllm.state = "up"
    stage.step()
    record = stage.get()
    assert record.phase is Phase.READY and record.reason == "" and record.job is not None
    job = record.job
    assert (job.window, job.vllm_version, job.model_revision, job.image_sha256) == (
        4321,
        "0.32.0+cpu",
        "rev1",
        "ab" * 32,
    )
    assert set(job.since) == {Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.READY}
    stage.context.store.update("aa", lambda d: d.asked_to_stop(stage.clock()))
    stage.step(2)
    ended = stage.get()
    assert (ended.phase, ended.ending) == (Phase.ENDED, Ending.CANCELLED)
    assert stage.context.store.slot_target(0) is None
    calls = len(stage.slurm.calls)
    stage.step(2)
    assert len(stage.slurm.calls) == calls


def test_a_quiet_look_changes_nothing_on_the_record(stage: WorkerScenario) -> None:
    stage.ready()
    version = stage.get().version
    stage.step(5)
    assert stage.get().version == version


def test_one_squeue_for_fifty_live_jobs(
    make_context: MakeWorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> None:
    stage = WorkerScenario(make_context(slot_count=50), gateway, slot0, slurm, clock)
    for n in range(50):
        stage.context.store.create(requested(f"d{n}", clock(), partition="gpu_h200"))
        submitting.submit(stage.context, f"d{n}")
    slurm.calls.clear()
    stage.step()
    assert slurm.programs() == ["squeue"]
    stage.probe.close()


@pytest.mark.parametrize("kind", ["tunnel_down", "human_needed", "command_timeout"])
def test_could_not_ask_ends_nothing(stage: WorkerScenario, kind: str) -> None:
    stage.ready()
    before = stage.get()
    stage.slurm.fault = lambda method, what: kind
    stage.clock.advance(3600)
    stage.step(3)
    assert stage.get() == before


@pytest.mark.parametrize("broken", ["slurm_load_jobs error: Unable to contact slurm controller", "what is this"])
def test_a_squeue_that_fails_or_babbles_ends_nothing(
    stage: WorkerScenario, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.ready()
    before = stage.get()
    status = 1 if "error" in broken else 0
    monkeypatch.setattr(stage.slurm, "squeue", lambda words: (status, broken, broken))
    stage.step(3)
    assert stage.get() == before


def test_a_file_that_cannot_be_read_does_not_hide_a_healthy_server(stage: WorkerScenario) -> None:
    stage.ready()
    stage.slurm.fault = lambda method, what: "remote_refused" if method == "GET" else None
    stage.step(2)
    assert stage.get().phase is Phase.READY


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
def test_a_job_that_left_the_queue_ends_with_slurms_word(
    stage: WorkerScenario, state: str, ending: Ending, forgot: bool
) -> None:
    job_id = stage.ready()
    stage.slurm.finish(job_id, state, "1:0")
    if forgot:
        stage.slurm.controller_forgot.add(job_id)
    stage.step()
    record = stage.get()
    assert (record.phase, record.ending) == (Phase.ENDED, ending)
    assert record.reason and record.job is not None and record.job.exit_code == "1:0"


def test_the_jobs_own_word_tells_why_vllm_ended(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    write_end(stage.slurm, job_id, "vllm_exited", "vLLM ended with status 1", ["ValueError: no such parser"])
    stage.slurm.finish(job_id, "FAILED", "1:0")
    stage.step()
    assert stage.get().reason == "vLLM ended with status 1: ValueError: no such parser"


def test_an_idle_job_ends_as_idle(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    write_end(stage.slurm, job_id, "idle", "idle for 45 min")
    stage.slurm.finish(job_id, "COMPLETED")
    stage.step()
    ended = stage.get()
    assert ended.ending is Ending.IDLE and ended.job is not None
    took = round(sum(seconds for step, seconds in ended.job.times.items() if step not in ("queue", "ready")))
    how_soon = f" in about {max(1, took)} s (warm)" if took else ""
    assert ended.reason == f"idle for 45 min; `bouchet launch demo/scripted` brings it back{how_soon}"


def test_the_watchs_warning_stands_on_the_record_until_it_is_used(stage: WorkerScenario) -> None:
    stage.ready()
    stage.slot0.vllm.warning = "nobody has asked it for 36 min"
    stage.step()
    assert stage.get().reason == "nobody has asked it for 36 min"
    stage.slot0.vllm.warning = ""
    stage.step()
    assert stage.get().reason == ""


def test_a_job_nobody_knows_ends_after_a_while_only(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    del stage.slurm.jobs[job_id]
    stage.slot0.vllm.state = "down"
    stage.step()
    assert stage.get().is_live
    stage.clock.advance(120)
    stage.slot0.vllm.state = "up"
    stage.step()
    assert stage.get().is_live, "it answers, so it runs"
    stage.slot0.vllm.state = "down"
    stage.step()
    assert stage.get().ending is Ending.FAILED


def test_draining_is_seen_through_health(stage: WorkerScenario) -> None:
    stage.ready()
    stage.slot0.vllm.state = "draining"
    stage.step()
    assert stage.get().phase is Phase.DRAINING


def test_a_requeued_job_starts_anew_elsewhere(stage: WorkerScenario) -> None:
    job_id = stage.ready()
    stage.slurm.requeue(job_id)
    stage.step()
    record = stage.get()
    assert record.phase is Phase.QUEUED and "back into the queue" in record.reason
    assert stage.context.store.slot_target(0) is None
    stage.slurm.start(job_id, "node2")
    write_connection(stage.slurm, job_id, 20002)
    stage.step(3)
    target = stage.context.store.slot_target(0)
    assert stage.get().phase is Phase.READY and target is not None and target.node == "node2"


def test_another_jobs_connection_file_is_not_believed(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    stage.slurm.start(job_id)
    write_connection(stage.slurm, job_id, name="bouchet-other-1")
    stage.step(3)
    assert stage.get().phase is Phase.STARTING and stage.context.store.slot_target(0) is None


def test_the_start_estimate_knows_the_clusters_time_zone(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    job = stage.slurm.jobs[job_id]
    job.start = job.submitted.replace(microsecond=0)
    stage.step()
    seen = stage.get().job
    assert seen is not None and seen.start_estimate == job.start


def test_a_lost_task_is_sent_again_but_not_at_every_step(stage: WorkerScenario) -> None:
    stage.context.store.create(requested("aa", stage.clock()))
    stage.step()
    assert stage.enqueued == [], "the API's own task gets its chance first"
    stage.slurm.fault = lambda method, what: "tunnel_down"
    stage.clock.advance(10)
    stage.step(5)
    assert stage.enqueued == [("submit", "aa")]


def test_only_one_of_two_loops_works(
    stage: WorkerScenario,
    make_context: MakeWorkerContext,
    gateway: GatewayClient,
    slot0: Slot0,
    slurm: FakeSlurm,
    clock: Clock,
) -> None:
    stage.step()
    other = WorkerScenario(make_context("worker-2"), gateway, slot0, slurm, clock)
    other.context.store.create(requested("aa", clock()))
    clock.advance(10)
    calls = list(slurm.calls)
    other.step()
    assert slurm.calls == calls
    stage.step()
    assert job_ids(slurm) == [101]
    other.probe.close()


@pytest.fixture
def environment(redis_server: RedisServer, slurm: FakeSlurm, slot0: Slot0, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the worker's process finds around it."""
    for name, value in {"redis_password": "secret", "gateway_token": TOKEN, "serving_secret": SECRET}.items():
        (tmp_path / name).write_text(value)
    with running_gateway(slurm) as url:
        yield {
            **os.environ,
            "BOUCHET_SITE_FILE": str(REPOSITORY / "sites" / "demo.yaml"),
            "BOUCHET_CATALOG": str(REPOSITORY / "models.yaml"),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis_server.port),
            "GATEWAY_URL": url,
            "SLOT_HOST": "127.0.0.1",
            "SLOT_BASE_PORT": str(slot0.port),
            "SLOT_COUNT": "1",
            "REMOTE_DIR": str(REPOSITORY / "remote"),
            "SECRETS_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The worker as the container starts it."""
    process = subprocess.Popen([sys.executable, "-m", "bouchet_worker"], env=environment)
    yield process
    process.kill()
    process.wait()


def test_the_whole_process_serves_the_queue_and_stops_on_sigterm(
    environment: dict[str, str],
    worker: subprocess.Popen[bytes],
    store: Store,
    slurm: FakeSlurm,
    slot0: Slot0,
    clock: Clock,
) -> None:
    store.create(requested("aa", clock()))
    enqueue(store, "aa")
    wait_for(store, "aa", Phase.QUEUED)
    slot0.vllm.job_name = slurm.jobs[101].name
    slurm.start(101)
    write_connection(slurm, 101)
    wait_for(store, "aa", Phase.READY)
    assert store.beats("worker") and store.beats(f"worker:{socket.gethostname()}")
    assert health(environment) == 0
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    assert store.lease("reconcile", "the next worker", 1)


def test_the_process_outlives_a_restart_of_redis(
    worker: subprocess.Popen[bytes],
    redis_server: RedisServer,
    store: Store,
    slurm: FakeSlurm,
    clock: Clock,
) -> None:
    store.create(requested("aa", clock(), partition="gpu_h200"))
    enqueue(store, "aa")
    wait_for(store, "aa", Phase.QUEUED)
    redis_server.process.terminate()
    redis_server.process.wait()
    time.sleep(1)
    again = start_redis(redis_server.directory, redis_server.port)
    try:
        slurm.start(101)
        wait_for(store, "aa", Phase.STARTING)
        assert worker.poll() is None
    finally:
        again.stop()


def test_a_worker_killed_in_the_middle_of_a_launch_goes_on_at_once_when_it_is_back(
    environment: dict[str, str], worker: subprocess.Popen[bytes], store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    reached, hold = threading.Event(), threading.Event()

    def stuck(method: str, what: str) -> None:
        if what == "sbatch" and not hold.is_set():
            reached.set()
            hold.wait(READY_TIMEOUT_S)

    slurm.lose_answer = stuck
    store.create(requested("aa", clock()))
    enqueue(store, "aa")
    assert reached.wait(READY_TIMEOUT_S)
    worker.kill()
    worker.wait()
    hold.set()
    heir = subprocess.Popen([sys.executable, "-m", "bouchet_worker"], env=environment)
    try:
        wait_for(store, "aa", Phase.QUEUED)
    finally:
        heir.kill()
        heir.wait()
    assert job_ids(slurm) == [101]


def enqueue(store: Store, deployment: str) -> None:
    connection = store.queue_connection()
    Queue("tasks", connection=connection, serializer=JSONSerializer).enqueue("bouchet_worker.tasks.submit", deployment)
    connection.close()


def test_a_container_without_a_worker_is_unhealthy(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "redis_password").write_text("secret")
    environment = {
        **os.environ,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
        "SECRETS_DIR": str(tmp_path),
    }
    assert health({**environment, "PYTHONPATH": os.pathsep.join(sys.path)}) == 1


def health(environment: dict[str, str]) -> int:
    return subprocess.run([sys.executable, "-m", "bouchet_worker.heartbeat"], env=environment, timeout=60).returncode


def wait_for(store: Store, deployment: str, phase: Phase) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while store.get(deployment).phase is not phase:
        assert time.monotonic() < deadline, store.get(deployment)
        time.sleep(0.05)
