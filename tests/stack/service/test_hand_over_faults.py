"""A kept model whose hand-over meets a fault of the cluster, while clients work: who sees what, and what Slurm saw."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.stack.harness import Stack, say
from tests.stack.job_faults import NODES, shell
from tests.stack.service.clients import Agents
from tests.stack.service.hand_over import Watch, cancel, decisions, jobs_in_slurm
from tests.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

OUTAGE_S = 180
# a start on a busy machine, and what the node's own daemon needs to be found dead
READY_S = 420.0
CLIENTS = 3
# what a client tries again by itself
RETRIED = ("529 ", "503 ", "overloaded_error")
# stopped without notice by a job of gpu_h200
PREEMPTIBLE = "scavenge_gpu"


@dataclass
class Kept:
    """A kept deployment of the scripted model, the clients that use it, and who looks at it."""

    stack: Stack
    id: str
    agents: Agents
    watch: Watch

    @property
    def record(self) -> dict[str, Any]:
        """The record as the API shows it."""
        return self.stack.deployment(self.id)

    def live(self) -> list[dict[str, Any]]:
        """Return its jobs that have not ended."""
        return [job for job in self.record["jobs"] if job["phase"] != "ended"]

    def wait_for_next(self, old: str) -> dict[str, Any]:
        """Wait until another job serves, and return it."""

        def serving() -> Any:
            return [job for job in self.live() if job["name"] != old and job["phase"] == "ready"]

        return dict(wait_for(serving, READY_S, lambda: json.dumps(self.record, indent=1))[0])

    def serving_elsewhere(self, node: str) -> list[dict[str, Any]]:
        """Return the jobs that serve on another node."""
        return [job for job in self.live() if job["phase"] == "ready" and job["node"] != node]

    def wait_for_answers(self) -> None:
        """Wait until each client has had a whole answer after now."""
        began = time.time()
        wait_for(lambda: self.answered_since(began) == CLIENTS, READY_S, lambda: str(self.agents.failed))

    def answered_since(self, moment: float) -> int:
        """Return how many clients asked after a Unix time and were answered whole."""
        since = time.monotonic() - (time.time() - moment)
        return len({turn.client for turn in self.agents.turns if not turn.error and turn.began > since})


@contextmanager
def kept(stack: Stack, partition: str, walltime: str) -> Iterator[Kept]:
    """Launch the scripted model to be kept, let clients work, and check afterwards that Slurm saw each job once."""
    name = f"fault-{uuid.uuid4().hex[:6]}"
    body = {"model": "demo/scripted", "name": name, "partition": partition, "time": walltime, "policy": {"keep": "6h"}}
    with stack.api() as api:
        answer = api.post("/v1/deployments", json=body)
    assert answer.status_code == 202, answer.text
    one = Kept(
        stack, answer.json()["id"], Agents(stack, name, CLIENTS, longest=1000), Watch(stack, answer.json()["id"])
    )
    watcher = threading.Thread(target=one.watch.run)
    try:
        stack.wait_for_phase(one.id, "ready", timeout_s=READY_S)
        watcher.start()
        one.agents.start()
        one.wait_for_answers()
        yield one
        one.agents.stop()
        failed = one.agents.failed
        say(f"{len(one.agents.turns)} turns, {len(failed)} with an error that is tried again: {failed}")
        say("\n".join(f"  {d['action']} {d['job']}: {d['reason']}" for d in decisions(stack, one.id)))
        bad = [turn for turn in failed if not any(words in turn.error for words in RETRIED)]
        assert bad == [], "a client was shown an error that it does not try again"
        assert one.watch.most_coming <= 1 and one.watch.most_serving <= 2
    finally:
        one.watch.stop()
        if watcher.ident is not None:
            watcher.join()
        cancel(stack, one.id)
    assert jobs_in_slurm(stack, one.id) == sorted(one.watch.seen), "a job was submitted twice, or none knows it"


def left_s(job: dict[str, Any], walltime_s: float) -> float:
    """Return the seconds until a job's walltime."""
    started = datetime.fromisoformat(job["since"]["starting"])
    return walltime_s - (datetime.now(UTC) - started).total_seconds()


def test_slurmctld_is_away_for_three_minutes_around_a_hand_over(stack: Stack, room: None) -> None:
    with kept(stack, "gpu_h200", "00:06:00") as one:
        old = one.live()[0]
        wait_for(lambda: left_s(old, 360) < OUTAGE_S + 60, 360)
        before = {job["name"] for job in one.live()}
        controller = stack.container("demo-ctl")
        controller.stop(timeout=10)
        try:
            time.sleep(OUTAGE_S)
            assert before <= {job["name"] for job in one.live()}, "nothing ends because Slurm is silent"
        finally:
            controller.start()
        stack.wait_healthy("demo-ctl", timeout_s=120)
        following = one.wait_for_next(old["name"])
        assert following["replaces"] in (None, old["name"])
        one.wait_for_answers()


def test_successor_that_fails_to_start_three_times_pauses_and_says_why(stack: Stack, room: None) -> None:
    with kept(stack, "gpu_h200", "00:08:00") as one:
        old = one.live()[0]
        with failing_starts(stack):
            record = wait_for(lambda: (found := one.record)["service"]["paused"] and found, READY_S)
        assert "3 starts in a row failed" in record["service"]["paused"], record["service"]
        assert [job["name"] for job in one.live()] == [old["name"]], "the old job serves on"
        shown = " ".join(stack.bouchet("status", one.id).stdout.split())
        assert "3 starts in a row failed" in shown, shown
        one.wait_for_answers()
        assert one.agents.failed == []
        # the person mends it, and says so
        assert stack.bouchet("keep", one.id, "6h").status == 0
        one.wait_for_next(old["name"])
        one.wait_for_answers()


@contextmanager
def failing_starts(stack: Stack) -> Iterator[None]:
    """Let every container end at once, on each node; those that run are not touched."""
    path = "/usr/local/bin/apptainer"
    for node in NODES:
        shell(stack, f"demo-{node}", f"printf '#!/bin/sh\\nexit 3\\n' > {path} && chmod 755 {path}", "root")
    try:
        yield
    finally:
        for node in NODES:
            shell(stack, f"demo-{node}", f"rm -f {path}", "root")


def test_node_that_is_killed_during_streams_is_replaced(stack: Stack, room: None) -> None:
    with kept(stack, "gpu_h200", "01:00:00") as one:
        old = one.live()[0]
        container = stack.container(f"demo-{old['node']}")
        wait_for(lambda: len(one.agents.open) >= 2, 60)
        container.kill()
        try:
            # Slurm starts the same job again, under the same number
            wait_for(lambda: one.serving_elsewhere(old["node"]), READY_S, lambda: json.dumps(one.record, indent=1))
            one.wait_for_answers()
        finally:
            container.start()
            stack.wait_healthy(f"demo-{old['node']}")


def test_preempted_job_comes_back_and_answers(stack: Stack, room: None) -> None:
    with kept(stack, PREEMPTIBLE, "01:00:00") as one:
        old = one.live()[0]
        argv = ["sbatch", "--parsable", "-p", "gpu_h200", "-N", "1", "-w", old["node"], "--gpus=h200:2", "--mem=100M"]
        submit = " ".join([*argv, "--output=/dev/null", "--wrap", "'sleep 600'"])
        other = shell(stack, "demo-login", submit, "colleague").strip()
        try:
            wait_for(lambda: one.live()[0]["phase"] != "ready", READY_S)
        finally:
            shell(stack, "demo-ctl", f"scancel {other}", "root")
        wait_for(lambda: one.record["phase"] == "ready", READY_S, lambda: json.dumps(one.record, indent=1))
        one.wait_for_answers()
