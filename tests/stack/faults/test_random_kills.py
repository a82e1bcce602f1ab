"""Containers killed at random while deployments are launched and cancelled: no job twice, none lost, none left over.

BOUCHET_KILLS: number of kills (2, in `make soak` 50); BOUCHET_KILL_SEED: repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from docker.errors import APIError

from tests.stack.harness import Stack, say
from tests.waiting import wait_for

SOAK = bool(os.environ.get("BOUCHET_SOAK"))
KILLS = int(os.environ.get("BOUCHET_KILLS", "50" if SOAK else "2"))
LAUNCHES = max(5, KILLS * 2 // 5)
VICTIMS = ("worker", "api", "redis", "gateway")
# at once: the gateway has eight slots, and the stack's own model holds one
DRIVERS = 4
MODEL = "demo/scripted"
SETTLE_S = 180.0
HELD_PARTITION = "scavenge_gpu"


@dataclass
class Killer:
    """Kills one container after another and starts it again."""

    stack: Stack
    rng: random.Random
    kills: int
    done: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Kill until all kills are done."""
        for _ in range(self.kills):
            victim = self.rng.choice(VICTIMS)
            container = self.stack.container(victim)
            # one that has just ended by itself is as dead
            with contextlib.suppress(APIError):
                container.kill()
            time.sleep(self.rng.uniform(0, 0.7))
            container.start()
            self.done[victim] += 1
            time.sleep(self.rng.uniform(0.2, 3.0))

    def wait_for(self, kills: float) -> None:
        """Wait for a number of kills: launches keep pace with them."""
        while sum(self.done.values()) < kills:
            time.sleep(0.1)


@dataclass
class Driver:
    """A client that retries until it gets an answer."""

    stack: Stack
    rng: random.Random
    killer: Killer

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until it is answered with a status below 500."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            try:
                with self.stack.api() as api:
                    answer = api.request(method, path, **options)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code < 500:
                return answer
            time.sleep(0.3)
        raise AssertionError(f"{method} {path}: no answer for {SETTLE_S} s")

    def launch(self, name: str, partition: str) -> str:
        """Launch, and return the id of the accepted deployment."""
        body = {"model": MODEL, "name": name, "partition": partition, "time": "01:00:00"}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        answer = self.ask("POST", "/v1/deployments", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def jobs(self, identity: str) -> list[dict[str, Any]]:
        """Return the deployment's jobs."""
        return list(self.ask("GET", f"/v1/deployments/{identity}").json()["jobs"])

    def launch_and_cancel(self, number: int) -> str:
        """Launch during the kills, wait a little, cancel. Most jobs stay queued; every fourth starts."""
        self.killer.wait_for(number * KILLS / LAUNCHES)
        identity = self.launch(f"kill-{number}-{uuid.uuid4().hex[:6]}", HELD_PARTITION if number % 4 else "gpu_h200")
        if number == 0:
            # one reaches Slurm, however slow the machine is
            wait_for(lambda: any(job["slurm_id"] for job in self.jobs(identity)), SETTLE_S)
        time.sleep(self.rng.uniform(0, 12))
        answer = self.ask("DELETE", f"/v1/deployments/{identity}")
        assert answer.status_code in (200, 202), answer.text
        return identity


@contextmanager
def held(stack: Stack) -> Iterator[None]:
    """Take the partition down: real jobs are queued, and cost nothing."""
    update = ["scontrol", "update", f"PartitionName={HELD_PARTITION}"]
    assert stack.on("demo-login", [*update, "State=DOWN"], user="root").status == 0
    try:
        yield
    finally:
        stack.on("demo-login", [*update, "State=UP"], user="root")


def jobs_ever(stack: Stack, deployments: list[str]) -> dict[str, set[str]]:
    """Return the ids of all jobs that Slurm has ever had for these deployments, by job name."""
    found: dict[str, set[str]] = {}
    for line in stack.slurm("sacct", "-X", "-n", "-P", "-D", "-o", "JobIDRaw,JobName", "-S", "now-2hours").splitlines():
        identity, _, name = line.partition("|")
        if any(name.startswith(f"bouchet-{deployment}-") for deployment in deployments):
            found.setdefault(name, set()).add(identity)
    return found


@pytest.mark.timeout(900)
def test_random_kills_lose_and_duplicate_nothing(stack: Stack) -> None:
    seed = int(os.environ.get("BOUCHET_KILL_SEED", str(random.randrange(10**6))))
    say(f"kills: BOUCHET_KILL_SEED={seed}, {KILLS} kills, {LAUNCHES} launches")
    before = {record["id"]: record["jobs"][-1]["slurm_id"] for record in stack.deployments()}
    killer = Killer(stack, random.Random(seed), KILLS)
    began = time.monotonic()
    with held(stack), ThreadPoolExecutor(DRIVERS) as pool:
        thread = threading.Thread(target=killer.run)
        thread.start()
        drivers = [Driver(stack, random.Random(seed + n), killer) for n in range(LAUNCHES)]
        launched = list(pool.map(lambda n: drivers[n].launch_and_cancel(n), range(LAUNCHES)))
        thread.join()
        say(f"kills: {dict(killer.done)} in {time.monotonic() - began:.0f} s")
        stack.wait_healthy(*VICTIMS)
        settled(drivers[0], launched)
    say(f"kills: all settled after {time.monotonic() - began:.0f} s")
    jobs = jobs_ever(stack, launched)
    say(f"kills: {len(jobs)} of {LAUNCHES} launches had reached Slurm when they were cancelled")
    assert jobs, "nothing was submitted, so nothing was tested"
    assert {name: ids for name, ids in jobs.items() if len(ids) > 1} == {}, "submitted twice"
    assert len({name.rsplit("-", 1)[0] for name in jobs}) == len(jobs), "two jobs of one deployment"
    for identity in launched:
        record = stack.deployment(identity)
        assert record["ending"] == "cancelled", record["reason"]
        submitted = {str(job["slurm_id"]) for job in record["jobs"] if job["slurm_id"]}
        assert submitted == {number for name, ids in jobs.items() if f"-{identity}-" in name for number in ids}
    assert left_over(stack, launched) == []
    with stack.api() as api:
        assert api.get("/v1/orphans").raise_for_status().json() == {"orphans": []}
    assert {record["id"]: record["jobs"][-1]["slurm_id"] for record in stack.deployments()} == before


def settled(driver: Driver, launched: list[str]) -> None:
    """Wait until all of them and their jobs have ended."""
    stack = driver.stack

    def all_ended() -> bool:
        return all(driver.ask("GET", f"/v1/deployments/{one}").json()["phase"] == "ended" for one in launched)

    wait_for(all_ended, SETTLE_S, lambda: json.dumps(stack.deployments(), indent=1))
    wait_for(lambda: not left_over(stack, launched), SETTLE_S, lambda: str(left_over(stack, launched)))


def left_over(stack: Stack, launched: list[str]) -> list[str]:
    """List jobs of these deployments that have not ended."""
    names = stack.slurm("squeue", "--me", "-h", "-o", "%j").split()
    return [name for name in names if any(f"-{identity}-" in name for identity in launched)]
