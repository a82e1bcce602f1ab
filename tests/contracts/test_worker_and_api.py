"""API, worker and command line over one Redis: queries that the worker answers, and tasks that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.store import Store
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result

from tests.conftest import RedisServer
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import ADMIN_KEY, KEY, RunningApi, running
from tests.fakes.running_worker import running_worker, worker_environment
from tests.fakes.slurm_gateway import FakeJob, FakeSlurm, running_gateway
from tests.waiting import wait_for

MODEL = "Qwen/Qwen3-32B"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Services:
    """A running API and a running worker."""

    api: RunningApi
    slurm: FakeSlurm
    worker: subprocess.Popen[bytes]
    environment: dict[str, str]

    @property
    def store(self) -> Store:
        """The store of the tests, with all rights."""
        return self.api.store

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request with the API's key."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.request(method, self.api.url + path, headers=headers, timeout=TIMEOUT_S, verify=NO_TLS, **options)

    def bouchet(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BOUCHET_")},
            "BOUCHET_API_URL": self.api.url,
            "BOUCHET_API_KEY": KEY,
            "BOUCHET_ADMIN_KEY": ADMIN_KEY,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **extra,
        }
        argv = [sys.executable, "-m", "bouchet_cli", *arguments]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def services(tmp_path: Path, redis_server: RedisServer) -> Iterator[Services]:
    slurm = FakeSlurm()
    with ExitStack() as opened:
        gateway = opened.enter_context(FakeGateway())
        api = opened.enter_context(running(tmp_path, redis_server, gateway))
        url = opened.enter_context(running_gateway(slurm))
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        environment = worker_environment(secrets, redis_port=redis_server.port, gateway_url=url)
        worker = opened.enter_context(running_worker(environment, "one"))
        yield Services(api, slurm, worker, environment)


@pytest.mark.slow
def test_orphans_reach_api_and_command_line(services: Services) -> None:
    services.slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [], state="RUNNING", node="node1")
    services.slurm.jobs[901] = FakeJob(901, "train", "day", [])
    shown = services.bouchet("orphans")
    assert shown.returncode == 0, shown.stderr
    assert "bouchet-zz-1" in shown.stdout and "train" not in shown.stdout
    assert [one["slurm_id"] for one in services.request("GET", "/v1/orphans").json()["orphans"]] == [900]
    assert "`bouchet orphans`" in services.bouchet("status").stdout
    refused = services.bouchet("orphans", "--adopt", "900")
    assert refused.returncode == 1 and "record.json" in refused.stderr and "Traceback" not in refused.stderr
    unknown = services.request("DELETE", "/v1/orphans/901")
    assert (unknown.status_code, unknown.json()["kind"]) == (404, "unknown_orphan")
    services.slurm.files["/home/researcher/bouchet-llm/jobs/bouchet-zz-1/spec.json"] = b"{}"
    assert services.bouchet("orphans", "--cancel", "900").returncode == 0
    assert services.slurm.jobs[900].state.startswith("CANCELLED")
    assert json.loads(services.bouchet("orphans", "--json").stdout) == {"orphans": []}
    assert services.bouchet("orphans", "--cancel", "x").returncode == 2


@pytest.mark.slow
def test_failed_task_can_be_listed_retried_and_dropped(services: Services) -> None:
    assert services.request("GET", "/v1/tasks/failed").json() == {"tasks": []}
    fail_now(services, "gone", "Traceback (most recent call last):\n  File ...\nKeyError: 'surprise'\n")
    (failed,) = services.request("GET", "/v1/tasks/failed").json()["tasks"]
    assert (failed["id"], failed["task"], failed["reason"]) == ("submit-gone", "submit", "KeyError: 'surprise'")
    shown = services.bouchet("tasks")
    assert "submit-gone" in shown.stdout and "surprise" in shown.stdout and "Traceback" not in shown.stdout
    assert services.request("POST", "/v1/tasks/failed/nothing/retry").json()["kind"] == "unknown_task"
    assert services.bouchet("tasks", "--retry", "submit-gone").returncode == 0
    wait_for(lambda: services.request("GET", "/v1/tasks/failed").json() == {"tasks": []}, TIMEOUT_S)
    # a second task, since the worker may be running the first one now
    fail_now(services, "left", "")
    assert services.bouchet("tasks", "--drop", "submit-left").returncode == 0
    assert json.loads(services.bouchet("tasks", "--json").stdout) == {"tasks": []}


@pytest.mark.slow
def test_entry_that_is_no_task_is_dropped_by_the_worker_and_shown(services: Services, tmp_path: Path) -> None:
    connection = services.store.queue_connection()
    queue = Queue("tasks", connection=connection, serializer="json")
    queue.enqueue_call("subprocess.getoutput", args=(f"touch {tmp_path}/ran",), job_id="planted", failure_ttl=1000)
    wait_for(lambda: services.request("GET", "/v1/tasks/failed").json()["tasks"] != [], TIMEOUT_S)
    (failed,) = services.request("GET", "/v1/tasks/failed").json()["tasks"]
    assert (failed["id"], failed["task"], failed["deployment"]) == ("planted", "subprocess.getoutput", "")
    assert "'subprocess.getoutput' is not a task" in failed["reason"]
    assert "is not a task" in services.bouchet("tasks").stdout
    assert not (tmp_path / "ran").exists()
    assert services.bouchet("tasks", "--drop", "planted").returncode == 0
    connection.close()


def fail_now(services: Services, deployment: str, trace: str) -> None:
    """Write what RQ writes when the last try of a task has failed."""
    connection = services.store.queue_connection()
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


def test_concurrent_launches_of_one_name_start_one_deployment(services: Services) -> None:
    barrier = threading.Barrier(6)

    def launch(_: int) -> httpx.Response:
        barrier.wait()
        return services.request("POST", "/v1/deployments", json={"model": MODEL, "name": "mine"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(launch, range(6)))
    won = [answer.json() for answer in answers if answer.status_code == 202]
    lost = [answer.json() for answer in answers if answer.status_code == 409]
    assert (len(won), len(lost)) == (1, 5)
    for problem in lost:
        assert problem["kind"] == "name_taken"
        assert won[0]["id"] in problem["detail"] and "another name" in problem["detail"]
        assert f"bouchet cancel {won[0]['id']}" in problem["detail"]


@pytest.mark.slow
def test_several_workers_submit_each_deployment_once(services: Services) -> None:
    with ExitStack() as opened:
        for name in ("two", "three"):
            opened.enter_context(running_worker(services.environment, name))
        wait_for(lambda: all(services.store.beats(f"worker:{name}") for name in ("one", "two", "three")), TIMEOUT_S)
        for n in range(4):
            launched = services.request("POST", "/v1/deployments", json={"model": MODEL, "name": f"m{n}"})
            assert launched.status_code == 202, launched.text
        wait_for(
            lambda: len(services.slurm.jobs) == 4 and all(d.phase is Phase.QUEUED for d in services.store.live()),
            TIMEOUT_S,
        )
        services.worker.kill()
        for record in services.store.live():
            services.request("DELETE", f"/v1/deployments/{record.id}")
        wait_for(lambda: not services.store.live(), TIMEOUT_S)
    assert services.slurm.programs().count("sbatch") == 4
    assert sorted(job.name for job in services.slurm.jobs.values()) == sorted(
        {j.name for j in services.slurm.jobs.values()}
    )
