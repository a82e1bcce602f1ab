"""The worker's process in the midst of a task: Redis goes away and comes back, and the process is still there."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_worker.task_queue import TaskQueue
from rq import Queue
from rq.serializers import JSONSerializer

from tests.conftest import RedisServer, start_redis
from tests.fakes.running_worker import running_worker, worker_environment
from tests.fakes.slurm_gateway import FakeSlurm, job_ids, running_gateway
from tests.worker.scenario import Clock, requested

TIMEOUT_S = 60.0


def test_redis_lost_in_the_midst_of_an_task_ends_no_worker(
    tmp_path: Path, redis_server: RedisServer, store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    reached, hold = threading.Event(), threading.Event()

    def stuck(method: str, what: str) -> None:
        if what == "sbatch" and not hold.is_set():
            reached.set()
            hold.wait(TIMEOUT_S)

    slurm.lose_answer = stuck
    with running_gateway(slurm) as url:
        environment = worker_environment(tmp_path, redis_port=redis_server.port, gateway_url=url)
        with running_worker(environment, "one") as worker:
            store.create(requested("aa", clock()))
            connection = store.queue_connection()
            TaskQueue(Queue("tasks", connection=connection, serializer=JSONSerializer)).send("submit", "aa")
            connection.close()
            assert reached.wait(TIMEOUT_S)
            redis_server.process.kill()
            redis_server.process.wait()
            hold.set()
            time.sleep(1)
            again = start_redis(redis_server.directory, redis_server.port)
            try:
                deadline = time.monotonic() + TIMEOUT_S
                while store.get("aa").phase is not Phase.QUEUED:
                    assert time.monotonic() < deadline, store.get("aa")
                    time.sleep(0.05)
                assert worker.poll() is None
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(timeout=TIMEOUT_S) == 0
            finally:
                again.stop()
    assert len(job_ids(slurm)) == 1
