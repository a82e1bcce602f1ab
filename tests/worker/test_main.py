"""The worker as a process: it serves the queue, survives restarts of Redis, and continues after a crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_core.tasks import TaskName
from bouchet_worker.task_queue import TaskQueue
from rq import Queue
from rq.serializers import JSONSerializer

from tests.conftest import RedisServer, start_redis
from tests.fakes.running_worker import running_worker, worker_environment
from tests.fakes.slurm_gateway import FakeSlurm, job_ids, running_gateway
from tests.waiting import wait_for

from .scenario import SECRET, Clock, Slot0, requested, write_connection

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0


@pytest.fixture
def environment(redis_server: RedisServer, slurm: FakeSlurm, slot0: Slot0, tmp_path: Path) -> Iterator[dict[str, str]]:
    with running_gateway(slurm) as url:
        yield worker_environment(tmp_path, redis_port=redis_server.port, gateway_url=url, slot_port=slot0.port, slots=1)


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with running_worker(environment) as process:
        yield process


def enqueue_submit(store: Store, deployment: str) -> None:
    connection = store.queue_connection()
    TaskQueue(Queue("tasks", connection=connection, serializer=JSONSerializer)).send(TaskName.SUBMIT, deployment)
    connection.close()


def wait_for_phase(store: Store, deployment: str, phase: Phase) -> None:
    wait_for(lambda: store.get(deployment).phase is phase, TIMEOUT_S, lambda: str(store.get(deployment)), pause_s=0.05)


def health_status(environment: dict[str, str]) -> int:
    return subprocess.run([ROOT / "setup" / "image" / "worker-ok"], env=environment, timeout=60).returncode


class HeldSbatch:
    """Holds the answer of the first sbatch until `release` is called."""

    def __init__(self, slurm: FakeSlurm) -> None:
        self._reached, self._released = threading.Event(), threading.Event()
        slurm.lose_answer = self._hold

    def _hold(self, method: str, what: str) -> None:
        if what == "sbatch" and not self._released.is_set():
            self._reached.set()
            self._released.wait(TIMEOUT_S)

    def wait(self) -> None:
        assert self._reached.wait(TIMEOUT_S)

    def release(self) -> None:
        self._released.set()


@pytest.mark.slow
def test_worker_serves_queue_and_stops_on_sigterm(
    environment: dict[str, str],
    worker: subprocess.Popen[bytes],
    store: Store,
    slurm: FakeSlurm,
    slot0: Slot0,
    clock: Clock,
) -> None:
    store.create(requested("aa", clock()))
    enqueue_submit(store, "aa")
    wait_for_phase(store, "aa", Phase.QUEUED)
    slot0.vllm.key = serving_key(SECRET, slurm.jobs[101].name)
    slurm.start(101)
    write_connection(slurm, 101)
    wait_for_phase(store, "aa", Phase.READY)
    assert store.beats("worker") and store.beats(f"worker:{socket.gethostname()}")
    assert health_status(environment) == 0
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=TIMEOUT_S) == 0
    assert store.lease("reconcile", "the next worker", 1)


@pytest.mark.slow
def test_worker_survives_restart_of_redis(
    worker: subprocess.Popen[bytes], redis_server: RedisServer, store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    store.create(requested("aa", clock(), partition="gpu_h200"))
    enqueue_submit(store, "aa")
    wait_for_phase(store, "aa", Phase.QUEUED)
    redis_server.process.terminate()
    redis_server.process.wait()
    time.sleep(0.5)
    restarted = start_redis(redis_server.directory, redis_server.port)
    try:
        slurm.start(101)
        wait_for_phase(store, "aa", Phase.STARTING)
        assert worker.poll() is None
    finally:
        restarted.stop()


@pytest.mark.slow
def test_worker_survives_loss_of_redis_during_a_task(
    worker: subprocess.Popen[bytes], redis_server: RedisServer, store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    sbatch = HeldSbatch(slurm)
    store.create(requested("aa", clock()))
    enqueue_submit(store, "aa")
    sbatch.wait()
    redis_server.process.kill()
    redis_server.process.wait()
    sbatch.release()
    time.sleep(0.5)
    restarted = start_redis(redis_server.directory, redis_server.port)
    try:
        wait_for_phase(store, "aa", Phase.QUEUED)
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=TIMEOUT_S) == 0
    finally:
        restarted.stop()
    assert len(job_ids(slurm)) == 1


@pytest.mark.slow
def test_restarted_worker_continues_interrupted_launch(
    environment: dict[str, str], worker: subprocess.Popen[bytes], store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    sbatch = HeldSbatch(slurm)
    store.create(requested("aa", clock()))
    enqueue_submit(store, "aa")
    sbatch.wait()
    worker.kill()
    worker.wait()
    sbatch.release()
    with running_worker(environment):
        wait_for_phase(store, "aa", Phase.QUEUED)
    assert job_ids(slurm) == [101]


def test_health_check_wants_a_recent_heartbeat(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    environment = {**os.environ, "HEARTBEAT_FILE": str(heartbeat)}
    assert health_status(environment) == 1
    heartbeat.touch()
    assert health_status(environment) == 0
    os.utime(heartbeat, (time.time() - 60, time.time() - 60))
    assert health_status(environment) == 1
