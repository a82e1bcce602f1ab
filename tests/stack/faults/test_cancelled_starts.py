"""Starts, each cancelled at another moment, a few at a time: nothing is left of them anywhere.

`make soak` runs 20 of them, `make test` 3.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.stack.harness import Stack
from tests.waiting import wait_for

NODES = ("node1", "node2")
JOBS = "/home/researcher/bouchet-llm/jobs"
CYCLES = 20 if os.environ.get("BOUCHET_SOAK") else 3
AT_ONCE = 5
# from the queue to vLLM's own start, more or less
LATEST_S = 14.0
# so many are cancelled only after they have come as far as a node, however slow the machine is
ON_A_NODE = CYCLES // 4 + 1
END_TIMEOUT_S, NODE_TIMEOUT_S = 120, 300


@dataclass(frozen=True)
class Leavings:
    """What a job could leave: on one node, or on the login node."""

    processes: frozenset[str]
    ports: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]

    def beyond(self, before: Leavings) -> dict[str, list[str]]:
        """Return what was not there before, by kind."""
        kinds = ("processes", "ports", "mounts", "files")
        more = {kind: sorted(getattr(self, kind) - getattr(before, kind)) for kind in kinds}
        return {kind: found for kind, found in more.items() if found}


def look(stack: Stack, node: str, known: frozenset[str] = frozenset()) -> Leavings:
    """List the traces on one node, without children of the processes `known`."""

    def lines_of(*argv: str) -> frozenset[str]:
        return frozenset(stack.on(f"demo-{node}", argv).stdout.splitlines())

    rows = [line.split(None, 2) for line in lines_of("ps", "-u", "researcher", "-o", "pid=,ppid=,args=")]
    return Leavings(
        # what ran before may have new children
        processes=frozenset(f"{pid} {args}" for pid, parent, args in rows if parent not in known),
        ports=lines_of("sh", "-c", "ss -Hltn | awk '{print $4}'"),
        mounts=lines_of("sh", "-c", "awk '{print $1, $2, $3}' /proc/mounts"),
        files=lines_of("find", "/tmp", "/var/tmp", "/dev/shm", "-user", "researcher"),
    )


def notes(stack: Stack) -> set[str]:
    """List the files that mark a job as running."""
    names = stack.slurm("ls", "/home/researcher/bouchet-llm/logs").split()
    return {name for name in names if name.startswith(("connection-", "heartbeat-")) or name.endswith(".tmp")}


def keyless(stack: Stack, made: set[str]) -> set[str]:
    """Select the deployments whose job was staged and whose key is no longer on the cluster."""
    with_file = {
        name: {path.split("/")[-2].split("-")[1] for path in stack.slurm("find", JOBS, "-name", name).split()}
        for name in ("spec.json", "key")
    }
    return made & with_file["spec.json"] - with_file["key"]


def gpus_held(stack: Stack) -> str:
    """Return the allocated GPUs by node, as Slurm shows them."""
    return stack.slurm("sinfo", "-h", "-N", "-p", "gpu_h200", "-O", "NodeList,GresUsed,CPUsState")


def cycle(stack: Stack, number: int, wait_s: float) -> str:
    """Launch, cancel after `wait_s` seconds, and return the deployment's id."""
    done = stack.bouchet(
        *("launch", "demo/scripted", "--partition", "gpu_h200", "--name", f"cycle-{number}", "--no-wait", "--json")
    )
    assert done.status == 0, done.output
    identity = str(json.loads(done.stdout)["id"])
    if number < ON_A_NODE:
        wait_for(lambda: is_on_a_node(stack, identity), NODE_TIMEOUT_S)
    time.sleep(wait_s)
    cancelled = stack.bouchet("cancel", identity)
    assert cancelled.status == 0, cancelled.output
    return identity


def is_on_a_node(stack: Stack, identity: str) -> bool:
    """Tell whether its job has come as far as a node."""
    jobs = stack.deployment(identity)["jobs"]
    return bool(jobs and jobs[-1]["node"])


@pytest.fixture
def quiet(stack: Stack) -> Iterator[Stack]:
    """Wait until no job is about to end or start; cancel what is left afterwards."""
    wait_for(lambda: not stack.slurm("squeue", "-h", "-t", "CG,PD", "-o", "%i").strip(), END_TIMEOUT_S)
    yield stack
    for record in stack.deployments():
        if "cycle-" in record["names"][0]:
            stack.bouchet("cancel", record["id"])


@pytest.mark.long
def test_cancelled_starts_leave_nothing(quiet: Stack) -> None:
    stack, moments = quiet, random.Random(20)
    before = {node: look(stack, node) for node in NODES}
    known = {node: frozenset(line.split()[0] for line in seen.processes) for node, seen in before.items()}
    noted, held, jobs = notes(stack), gpus_held(stack), stack.slurm("squeue", "-h", "-o", "%i").split()
    waits = [moments.uniform(0, LATEST_S) for _ in range(CYCLES)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = set(pool.map(lambda number: cycle(stack, number, waits[number]), range(CYCLES)))
    wait_for(lambda: stack.slurm("squeue", "-h", "-o", "%i").split() == jobs, END_TIMEOUT_S)
    wait_for(lambda: not made & {record["id"] for record in stack.deployments()}, END_TIMEOUT_S)
    assert gpus_held(stack) == held
    assert notes(stack) - noted == set()
    for node in NODES:
        found = look(stack, node, known[node]).beyond(before[node])
        assert not found, f"{node}: {found}"
    ran = [is_on_a_node(stack, identity) for identity in made]
    # a minute after each end
    wait_for(lambda: bool(keyless(stack, made)), END_TIMEOUT_S)
    assert sum(ran) >= ON_A_NODE, "few came as far as a node"
