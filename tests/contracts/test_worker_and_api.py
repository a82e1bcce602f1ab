"""API, worker and `bouchet` over one Redis: questions that only the worker can answer, and tasks that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result

from tests.conftest import RedisServer
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import KEY, RunningApi, running
from tests.fakes.running_worker import running_worker, worker_environment
from tests.fakes.slurm_gateway import FakeJob, FakeSlurm, running_gateway

MODEL = "Qwen/Qwen3-32B"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class House:
    """An API and a worker."""

    api: RunningApi
    slurm: FakeSlurm
    worker: subprocess.Popen[bytes]
    environment: dict[str, str]

    @property
    def store(self) -> Store:
        """The API's own."""
        return self.api.state.store

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request with the key."""
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.request(method, self.api.url + path, headers=headers, timeout=TIMEOUT_S, **options)

    def bouchet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command as a person types it."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BOUCHET_")},
            "BOUCHET_API_URL": self.api.url,
            "BOUCHET_API_KEY": KEY,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        argv = [sys.executable, "-m", "bouchet_cli", *arguments]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def house(tmp_path: Path, redis_server: RedisServer) -> Iterator[House]:
    slurm = FakeSlurm()
    with ExitStack() as opened:
        door = opened.enter_context(FakeGateway())
        api = opened.enter_context(running(tmp_path, redis_server, door))
        url = opened.enter_context(running_gateway(slurm))
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        environment = worker_environment(secrets, redis_port=redis_server.port, gateway_url=url)
        worker = opened.enter_context(running_worker(environment, "one"))
        yield House(api, slurm, worker, environment)


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def test_orphans_from_the_cluster_to_the_terminal(house: House) -> None:
    house.slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [], state="RUNNING", node="node1")
    house.slurm.jobs[901] = FakeJob(901, "train", "day", [])
    shown = house.bouchet("orphans")
    assert shown.returncode == 0, shown.stderr
    assert "bouchet-zz-1" in shown.stdout and "train" not in shown.stdout
    assert [one["slurm_id"] for one in house.ask("GET", "/v1/orphans").json()["orphans"]] == [900]
    assert "`bouchet orphans`" in house.bouchet("status").stdout
    refused = house.bouchet("orphans", "--adopt", "900")
    assert refused.returncode == 1 and "record.json" in refused.stderr and "Traceback" not in refused.stderr
    unknown = house.ask("DELETE", "/v1/orphans/901")
    assert (unknown.status_code, unknown.json()["kind"]) == (404, "unknown_orphan")
    house.slurm.files["/home/researcher/bouchet-llm/jobs/bouchet-zz-1/spec.json"] = b"{}"
    assert house.bouchet("orphans", "--cancel", "900").returncode == 0
    assert house.slurm.jobs[900].state.startswith("CANCELLED")
    assert json.loads(house.bouchet("orphans", "--json").stdout) == {"orphans": []}
    assert house.bouchet("orphans", "--cancel", "x").returncode == 2


def test_an_task_that_always_fails_becomes_a_dead_letter_in_one_sentence(house: House) -> None:
    assert house.ask("GET", "/v1/tasks/failed").json() == {"tasks": []}
    fail_now(house, "gone", "Traceback (most recent call last):\n  File ...\nKeyError: 'surprise'\n")
    (failed,) = house.ask("GET", "/v1/tasks/failed").json()["tasks"]
    assert (failed["id"], failed["task"], failed["reason"]) == ("submit-gone", "submit", "KeyError: 'surprise'")
    shown = house.bouchet("tasks")
    assert "submit-gone" in shown.stdout and "surprise" in shown.stdout and "Traceback" not in shown.stdout
    assert house.ask("POST", "/v1/tasks/failed/nothing/retry").json()["kind"] == "unknown_task"
    assert house.bouchet("tasks", "--retry", "submit-gone").returncode == 0
    eventually(lambda: house.ask("GET", "/v1/tasks/failed").json() == {"tasks": []})
    # another one: the first may be under way in the worker at this moment
    fail_now(house, "left", "")
    assert house.bouchet("tasks", "--drop", "submit-left").returncode == 0
    assert "no task has failed" in house.bouchet("tasks").stdout


def fail_now(house: House, deployment: str, trace: str) -> None:
    """What RQ leaves behind when the last try of the task has failed."""
    connection = house.store.queue_connection()
    queue = Queue("tasks", connection=connection, serializer="json")
    job = Job.create(
        "bouchet_worker.tasks.submit",
        (deployment,),
        connection=connection,
        id=f"submit-{deployment}",
        origin="tasks",
        serializer="json",
        failure_ttl=1000,
    )
    job.ended_at = datetime.now(UTC)
    job.save()
    job.set_status(JobStatus.FAILED)
    with connection.pipeline() as pipeline:
        queue.failed_job_registry.add(job, ttl=1000, exc_string=trace, pipeline=pipeline)
        Result.create_failure(job, 1000, trace, pipeline=pipeline)
        pipeline.execute()
    connection.close()


def test_two_launches_of_one_name_at_once(house: House) -> None:
    barrier = threading.Barrier(6)

    def launch(_: int) -> httpx.Response:
        barrier.wait()
        return house.ask("POST", "/v1/deployments", json={"model": MODEL, "name": "mine"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(launch, range(6)))
    won = [answer.json() for answer in answers if answer.status_code == 202]
    lost = [answer.json() for answer in answers if answer.status_code == 409]
    assert (len(won), len(lost)) == (1, 5)
    for problem in lost:
        assert problem["kind"] == "name_taken"
        assert won[0]["id"] in problem["detail"] and "--name" in problem["detail"]
        assert f"bouchet cancel {won[0]['id']}" in problem["detail"]


def test_several_workers_do_each_thing_once(house: House) -> None:
    with ExitStack() as opened:
        for name in ("two", "three"):
            opened.enter_context(running_worker(house.environment, name))
        eventually(lambda: all(house.store.beats(f"worker:{name}") for name in ("one", "two", "three")))
        for n in range(4):
            launched = house.ask("POST", "/v1/deployments", json={"model": MODEL, "name": f"m{n}"})
            assert launched.status_code == 202, launched.text
        eventually(lambda: len(house.slurm.jobs) == 4 and all(d.phase is Phase.QUEUED for d in house.store.live()))
        house.worker.kill()
        for record in house.store.live():
            house.ask("DELETE", f"/v1/deployments/{record.id}")
        eventually(lambda: not house.store.live())
    assert house.slurm.programs().count("sbatch") == 4
    assert sorted(job.name for job in house.slurm.jobs.values()) == sorted({j.name for j in house.slurm.jobs.values()})
