"""Redis emptied while a job runs: its record is made again. A job of another installation is shown, and taken over."""

from __future__ import annotations

import json

from tests.stack.conftest import SMALL
from tests.stack.faults.test_restarts import asks
from tests.stack.harness import Finished, Stack
from tests.waiting import wait_for

ANOTHER = "0123456789ab"


def empty_redis(stack: Stack) -> None:
    """Remove Redis' files and restart it, as if the volume had been lost: no service's user may empty it."""
    done = stack.on("redis", ["sh", "-c", "rm -rf /data/appendonlydir"])
    assert done.status == 0, done.output
    stack.container("redis").restart(timeout=1)
    stack.wait_healthy("redis")


def record_file(stack: Stack, job_name: str) -> str:
    """Return the path of the job's record.json."""
    return f"/home/researcher/bouchet-llm/jobs/{job_name}/record.json"


def on_login(stack: Stack, *argv: str) -> Finished:
    done = stack.on("demo-login", argv, user="researcher")
    assert done.status == 0, done.output
    return done


def test_emptied_redis_records_are_recovered(stack: Stack) -> None:
    before = stack.wait_for_phase(SMALL, "ready")
    empty_redis(stack)
    wait_for(lambda: any(one["id"] == before["id"] for one in stack.deployments()), 90)
    after = stack.wait_for_phase(SMALL, "ready", timeout_s=120)
    for fact in ("id", "names", "model", "request", "traits", "created_at"):
        assert after[fact] == before[fact], fact
    for fact in ("slurm_id", "name", "node", "port", "placement", "image_sha256", "window", "vllm_version", "log"):
        assert after["jobs"][-1][fact] == before["jobs"][-1][fact], fact
    wait_for(lambda: asks(stack), 90)
    assert json.loads(stack.bouchet("orphans", "--json").stdout) == {"orphans": []}


def test_orphan_of_other_installation_is_adopted_on_request(stack: Stack) -> None:
    job = stack.wait_for_phase(SMALL, "ready")["jobs"][-1]
    ours = json.loads(on_login(stack, "cat", record_file(stack, job["name"])).stdout)["installation"]
    edit = f's/"installation": *"{ours}"/"installation": "{ANOTHER}"/'
    on_login(stack, "sed", "-i", edit, record_file(stack, job["name"]))
    empty_redis(stack)
    shown = stack.bouchet("orphans", "--all")
    assert shown.status == 0 and job["name"] in shown.stdout and "another" in shown.stdout, shown.output
    assert "no orphaned Slurm jobs" in stack.bouchet("orphans").stdout
    assert "of another installation" in stack.bouchet("status").stdout
    assert not any(SMALL in record["names"] for record in stack.deployments())
    adopted = stack.bouchet("orphans", "--adopt", str(job["slurm_id"]))
    assert adopted.status == 0, adopted.output
    again = stack.wait_for_phase(SMALL, "ready", timeout_s=120)
    assert again["jobs"][-1]["slurm_id"] == job["slurm_id"]
    wait_for(lambda: asks(stack), 90)
    assert json.loads(on_login(stack, "cat", record_file(stack, job["name"])).stdout)["installation"] == ours
