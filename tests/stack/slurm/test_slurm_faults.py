"""Slurm or a node that does not answer: nothing ends by it, and `bouchet status` says what could not be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.stack.conftest import SMALL
from tests.stack.faults.test_restarts import asks
from tests.stack.harness import Stack
from tests.stack.job_faults import (
    Staged,
    demo_node,
    end,
    ended,
    let_go,
    nothing_left,
    nothing_starts,
    shell,
    spare_node,
    stage,
)
from tests.waiting import wait_for

# a look gives each program 20 s
REPORTED_S = 120


@contextmanager
def hanging(stack: Stack, program: str) -> Iterator[None]:
    """Replace a Slurm program on the login node by one that never ends."""
    path = f"/usr/local/bin/{program}"
    shell(stack, "demo-login", f"printf '#!/bin/sh\\nexec sleep 600\\n' > {path} && chmod 755 {path}", "root")
    try:
        yield
    finally:
        shell(stack, "demo-login", f"rm -f {path}", "root")


@pytest.fixture
def staged(stack: Stack) -> Iterator[Staged]:
    """Return a deployment in the queue."""
    with nothing_starts(stack):
        one = stage(stack, "fault-queue")
        yield one
        end(stack, [one])


def live(stack: Stack) -> dict[str, Any]:
    """Return phases and jobs of all live deployments."""
    return {record["id"]: (record["phase"], record["jobs"][-1]["slurm_id"]) for record in stack.deployments()}


def wait_until_reported(stack: Stack, words: str) -> None:
    """Wait until `bouchet status` reports the failed query."""

    def says() -> bool:
        shown = " ".join(stack.bouchet("status").stdout.split())
        return "the cluster has not answered for" in shown and words in shown

    wait_for(says, REPORTED_S, lambda: stack.bouchet("status").output)


def quiet(stack: Stack) -> None:
    """Wait until every query is answered again."""
    wait_for(lambda: "has not answered" not in stack.bouchet("status").stdout, REPORTED_S)


def test_hanging_squeue_ends_nothing_and_is_reported(stack: Stack, staged: Staged) -> None:
    before = live(stack)
    with hanging(stack, "squeue"):
        wait_until_reported(stack, "Slurm's controller does not answer (squeue did not end within 20 s")
        assert live(stack) == before and asks(stack)
    quiet(stack)
    assert live(stack) == before


@pytest.mark.long
def test_hanging_sacct_still_reports_end(stack: Stack, staged: Staged) -> None:
    with hanging(stack, "sacct"):
        shell(stack, "demo-login", f"scancel {staged.slurm_id}")
        record = ended(stack, staged, timeout_s=REPORTED_S)
    assert record["ending"] == "cancelled" and "cancelled by an unknown user" in record["reason"], record["reason"]


def test_slurmctld_outage_models_answer_and_cancel_waits(stack: Stack, staged: Staged) -> None:
    before = live(stack)
    controller = stack.container("demo-ctl")
    controller.stop(timeout=10)
    try:
        # squeue says that at once where the host answers, and tries for long where it does not
        wait_until_reported(stack, "Slurm's controller does not answer (squeue ")
        assert live(stack) == before and asks(stack)
        assert stack.bouchet("cancel", staged.id).status == 0
        record = stack.deployment(staged.id)
        assert record["phase"] == "queued" and record["stop_requested_at"]
    finally:
        controller.start()
    stack.wait_healthy("demo-ctl", timeout_s=120)
    assert ended(stack, staged)["ending"] == "cancelled"
    quiet(stack)
    assert live(stack) == {identity: row for identity, row in before.items() if identity != staged.id}


def test_silent_node_delays_end_of_deployment(stack: Stack, staged: Staged) -> None:
    node = spare_node(stack)
    shell(stack, "demo-login", f"echo sleep 600 > {staged.folder}/setup.sh")
    let_go(stack, staged, node)
    stack.wait_for_phase(staged.id, "starting")
    container = stack.container(f"demo-{node}")
    # for less than Slurm waits before it gives a node up
    container.pause()
    try:
        assert stack.bouchet("cancel", staged.id).status == 0

        def completing() -> bool:
            record = stack.deployment(staged.id)
            assert record["phase"] != "ended", record["reason"]
            return bool(record["phase"] == "draining" and record["jobs"][-1]["slurm_state"] == "COMPLETING")

        wait_for(completing, 20, lambda: str(stack.deployment(staged.id)))
    finally:
        container.unpause()
    assert ended(stack, staged)["ending"] == "cancelled"
    nothing_left(stack, [staged.slurm_id])
    assert stack.deployment(SMALL)["phase"] == "ready" and demo_node(stack) != node
