"""A downgrade and an upgrade with live deployments: records of other versions neither stop the stack nor get lost.

The services run as they are; the records are changed to what another version would have written, and the services are
restarted, as `git checkout` and `make up` do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.conftest import SMALL
from tests.stack.faults.test_restarts import asks
from tests.stack.harness import Stack
from tests.waiting import wait_for

SERVICES = ("gateway", "worker", "api", "proxy")
UNREADABLE = "fromthefuture"
# the worker's own store, so that it goes through its login and rights
IN_WORKER = """
import json, os, sys
from bouchet_worker.__main__ import build_context
from bouchet_worker.settings import WorkerSettings
redis = build_context(WorkerSettings.from_environment(os.environ), "tests").store._redis
command, *words = json.loads(sys.argv[1])
print(json.dumps(redis.execute_command(command, *words)))
"""


def redis(stack: Stack, *words: str | int) -> Any:
    """Run one command of Redis as the worker."""
    done = stack.on("worker", ["python", "-c", IN_WORKER, json.dumps(words)])
    assert done.status == 0, done.output
    return json.loads(done.stdout)


def key_of(identity: str) -> str:
    return f"bouchet:deployment:{identity}"


def body_of(stack: Stack, identity: str) -> dict[str, Any]:
    """Return the stored record as it is."""
    return dict(json.loads(redis(stack, "HGET", key_of(identity), "body")))


def write(stack: Stack, identity: str, body: dict[str, Any]) -> None:
    redis(stack, "HSET", key_of(identity), "body", json.dumps(body), "version", body["version"])


def as_newer_version(body: dict[str, Any]) -> dict[str, Any]:
    """Add fields that this version does not know, at each depth."""
    jobs = [{**job, "topology": {"rack": [1, 2]}} for job in body["jobs"]]
    request = {**body["request"], "energy_limit": 3}
    return {**body, "jobs": jobs, "request": request, "tenants": ["a"], "traits": {**body["traits"], "audio": True}}


def without_empty(fields: dict[str, Any], *later: str) -> dict[str, Any]:
    """Remove what is empty, and the fields that came later."""
    empty: list[Any] = [None, "", [], {}]
    return {
        name: value for name, value in fields.items() if value not in empty and value is not False and name not in later
    }


def as_older_version(body: dict[str, Any]) -> dict[str, Any]:
    """Remove fields that came later: whatever is empty, and what the start has found out."""
    jobs = [without_empty(job, "smoke", "software", "weights", "memory", "steps", "submission") for job in body["jobs"]]
    return {**without_empty(body), "jobs": jobs, "request": without_empty(body["request"])}


def restart(stack: Stack) -> None:
    """Stop the services and start them again, as `make up` of another version does."""
    for service in SERVICES:
        stack.container(service).stop(timeout=10)
    for service in SERVICES:
        stack.container(service).start()
    stack.wait_healthy(*SERVICES)


@pytest.fixture
def lab_key(stack: Stack) -> Iterator[str]:
    """Yield a key that was made before."""
    with stack.api() as api:
        made = api.post("/v1/keys", json={"name": "versions"}).raise_for_status().json()
    yield made["key"]
    with stack.api() as api:
        api.delete("/v1/keys/versions")


@pytest.mark.parametrize(
    "change",
    [pytest.param(as_newer_version, id="newer"), pytest.param(as_older_version, id="older", marks=pytest.mark.long)],
)
def test_live_deployment_of_other_version_goes_on(stack: Stack, lab_key: str, change: Any) -> None:
    before = stack.wait_for_phase(SMALL, "ready", timeout_s=120)
    queue = stack.slurm("squeue", "-h", "-o", "%i")
    write(stack, before["id"], change(body_of(stack, before["id"])))
    restart(stack)
    wait_for(lambda: asks(stack), 120)
    after = stack.wait_for_phase(SMALL, "ready", timeout_s=120)
    assert (after["id"], after["names"]) == (before["id"], before["names"])
    assert [job["slurm_id"] for job in after["jobs"]] == [job["slurm_id"] for job in before["jobs"]]
    assert stack.slurm("squeue", "-h", "-o", "%i") == queue
    with stack.proxy() as proxy:
        assert proxy.get("/v1/models", headers={"x-api-key": lab_key}).status_code == 200


def test_unreadable_record_is_named_and_the_others_go_on(stack: Stack) -> None:
    write(stack, UNREADABLE, {"id": UNREADABLE, "version": 3, "phase": "hibernating"})
    redis(stack, "SADD", "bouchet:live", UNREADABLE)
    try:
        restart(stack)
        wait_for(lambda: asks(stack), 120)
        listed = stack.bouchet("status")
        assert listed.status == 0 and SMALL in listed.stdout, listed.output
        assert UNREADABLE in stack.bouchet("doctor").stdout
        assert body_of(stack, UNREADABLE)["phase"] == "hibernating", "it is kept"
    finally:
        redis(stack, "SREM", "bouchet:live", UNREADABLE)
        redis(stack, "DEL", key_of(UNREADABLE))
