"""Any container may be killed: the deployment stays, the job runs on, nothing is submitted twice."""

from __future__ import annotations

import httpx
import pytest

from tests.stack.conftest import SMALL
from tests.stack.harness import LOCAL_SERVICES, PROJECT, Stack
from tests.waiting import wait_for


def asks(stack: Stack) -> bool:
    """Tell whether the demo model answers through the whole chain."""
    body = {"model": SMALL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    with stack.proxy() as proxy:
        try:
            return proxy.post("/v1/messages", json=body).status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.parametrize("service", LOCAL_SERVICES)
def test_killed_container_restarts_without_loss(stack: Stack, service: str) -> None:
    before = stack.deployment(SMALL)
    jobs = stack.slurm("squeue", "-h", "-o", "%i")
    stack.container(service).kill()
    stack.container(service).start()
    stack.wait_healthy(service)
    wait_for(lambda: asks(stack), 120)
    after = stack.wait_for_phase(SMALL, "ready", timeout_s=120)
    assert after["id"] == before["id"]
    assert [job["slurm_id"] for job in after["jobs"]] == [job["slurm_id"] for job in before["jobs"]]
    assert stack.slurm("squeue", "-h", "-o", "%i") == jobs


def test_restarted_stack_finds_its_jobs(stack: Stack) -> None:
    before = stack.deployment(SMALL)
    for service in LOCAL_SERVICES:
        stack.container(service).stop(timeout=10)
    for service in LOCAL_SERVICES:
        stack.container(service).start()
    stack.wait_healthy(*LOCAL_SERVICES)
    wait_for(lambda: asks(stack), 120)
    assert stack.deployment(SMALL)["jobs"][-1]["slurm_id"] == before["jobs"][-1]["slurm_id"]


def test_cut_link_reconnects(stack: Stack) -> None:
    uplink = next(n for n in stack.docker.networks.list() if n.name == f"{PROJECT}_uplink")
    gateway = stack.container("gateway")
    uplink.disconnect(gateway)
    uplink.connect(gateway)
    wait_for(lambda: asks(stack), 120)
    assert stack.deployment(SMALL)["phase"] == "ready"
