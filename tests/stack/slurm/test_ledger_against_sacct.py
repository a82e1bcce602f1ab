"""The ledger's GPU seconds of fifty jobs beside what the demo's real accounting says of each.

Jobs end at random moments of their start, so that none has to load a model: cancelled by the person or by the
centre, timed out, requeued and then cancelled, or lost with their node.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.stack.harness import Stack
from tests.stack.slurm.test_job_states import as_root, cancel, launched, node_of_the_demo_model, slurm_id
from tests.waiting import wait_for

# of two nodes with two GPUs each, the demo's model has one
AT_ONCE = 3
CANCELLED, BY_THE_CENTRE, TIMED_OUT, REQUEUED, NODE_LOST = 30, 9, 4, 5, 2
MOST_S = 2.0
ENDED_S = 150.0
# a job's end is known to Slurm's database a moment later
ACCOUNTED_S = 60.0


def started(stack: Stack, name: str, *options: str) -> str:
    """Launch, and wait until Slurm has started the job."""
    identity = launched(stack, name, "--partition", "scavenge_gpu", "--gpus", "1", *(options or ("--time", "01:00:00")))
    stack.wait_for_phase(identity, "starting", timeout_s=240)
    return identity


def cancelled(stack: Stack, name: str, rest_s: float) -> None:
    """Cancel as a person does."""
    identity = started(stack, name)
    time.sleep(rest_s)
    cancel(stack, identity)


def cancelled_by_the_centre(stack: Stack, name: str, rest_s: float) -> None:
    """Cancel behind our back."""
    identity = started(stack, name)
    time.sleep(rest_s)
    as_root(stack, "scancel", slurm_id(stack, identity))
    stack.wait_for_phase(identity, "ended", timeout_s=ENDED_S)


def timed_out(stack: Stack, name: str, rest_s: float) -> None:
    """Let it reach its walltime: its script is stopped, so that it cannot end by itself before."""
    del rest_s
    identity = started(stack, name, "--time", "00:01:00")
    as_root(stack, "scancel", "--signal=STOP", "--batch", slurm_id(stack, identity))
    stack.wait_for_phase(identity, "ended", timeout_s=ENDED_S)


def requeued(stack: Stack, name: str, rest_s: float) -> None:
    """Have it start twice."""
    identity = started(stack, name)
    time.sleep(rest_s)
    as_root(stack, "scontrol", "requeue", slurm_id(stack, identity))
    stack.wait_for_phase(identity, "queued", timeout_s=60)
    stack.wait_for_phase(identity, "starting", timeout_s=240)
    time.sleep(rest_s)
    cancel(stack, identity)


def lose_node(stack: Stack) -> None:
    """Kill the node that the demo's model is not on, with jobs that may not be requeued."""
    spared = node_of_the_demo_model(stack)
    as_root(stack, "scontrol", "update", f"nodename={spared}", "state=drain", "reason=tests")
    try:
        made = [started(stack, f"sacct-lost-{number}") for number in range(NODE_LOST)]
    finally:
        as_root(stack, "scontrol", "update", f"nodename={spared}", "state=resume")
    for identity in made:
        stack.slurm("scontrol", "update", f"jobid={slurm_id(stack, identity)}", "requeue=0")
    node = stack.container(f"demo-{'node2' if spared == 'node1' else 'node1'}")
    node.kill()
    try:
        for identity in made:
            stack.wait_for_phase(identity, "ended", timeout_s=ENDED_S)
    finally:
        node.start()
    stack.wait_healthy(node.labels["com.docker.compose.service"])


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("room")
def test_gpu_seconds_of_fifty_jobs_are_those_of_sacct(stack: Stack) -> None:
    source = random.Random(50)
    kinds = {cancelled: CANCELLED, cancelled_by_the_centre: BY_THE_CENTRE, timed_out: TIMED_OUT, requeued: REQUEUED}
    work = [end for end, number in kinds.items() for _ in range(number)]
    source.shuffle(work)
    before = {one["job"] for one in compared(stack)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(end, stack, f"sacct-{number}", source.uniform(0, 8)) for number, end in enumerate(work)]
        for one in running:
            one.result()
    lose_node(stack)
    expected = sum(kinds.values()) + NODE_LOST

    def all_of_them() -> list[dict[str, Any]] | None:
        with stack.api() as api:
            api.post("/v1/ledger/accounting").raise_for_status()
        found = [one for one in compared(stack) if one["job"] not in before]
        return found if len(found) >= expected else None

    found = wait_for(all_of_them, ACCOUNTED_S, lambda: f"{len(compared(stack)) - len(before)} of {expected}", pause_s=5)
    assert found
    print("largest differences:", [(one["state"], difference(one)) for one in found[:5]])
    assert [one for one in found if abs(difference(one)) > MOST_S] == []
    assert sum(one["runs"] > 1 for one in found) >= REQUEUED
    states = {str(one["state"]).split(" ")[0] for one in found}
    assert {"CANCELLED", "TIMEOUT", "NODE_FAIL"} <= states, states
    assert sum(one["accounted_s"] for one in found) > 0


def difference(one: dict[str, Any]) -> float:
    """Return how many GPU seconds the ledger has measured more."""
    return round(float(one["measured_s"]) - float(one["accounted_s"]), 1)


def compared(stack: Stack) -> list[dict[str, Any]]:
    """Return the jobs of yesterday and today that both know, those that differ the most first."""
    today = datetime.now(UTC).date()
    days = {"from": str(today - timedelta(days=1)), "to": str(today)}
    with stack.api() as api:
        answer = api.get("/v1/ledger/accounting", params={**days, "limit": 1000})
    return list(answer.raise_for_status().json()["jobs"])
