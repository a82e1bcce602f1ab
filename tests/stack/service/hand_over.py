"""Renewal on the demo cluster: jobs with a short walltime hand over to each other while clients work.

Part of `make soak`; tests/contracts/test_hand_over.py is the quick form. BOUCHET_HOPS: number of hand-overs (2, in
`make soak` 10); BOUCHET_HOP_TIME: walltime of each job, longer on a slow machine.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.stack.harness import Stack, say
from tests.stack.service.clients import Agents
from tests.waiting import wait_for

SOAK = bool(os.environ.get("BOUCHET_SOAK"))
HOPS = int(os.environ.get("BOUCHET_HOPS", "10" if SOAK else "2"))
CLIENTS = 8 if SOAK else 4
WALLTIME = os.environ.get("BOUCHET_HOP_TIME", "00:04:00")
HOP_S = 300.0
LONGEST = 3000


@dataclass
class Watch:
    """Looks at a deployment all the time: which jobs it has, and how many of them are on their way."""

    stack: Stack
    identity: str
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_coming: int = 0
    most_live: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until stopped."""
        while not self._stopping.wait(0.5):
            record = self.stack.deployment(self.identity)
            live = [job for job in record["jobs"] if job["phase"] != "ended"]
            coming = [job for job in live if job["phase"] in ("requested", "submitting", "queued", "starting")]
            self.most_coming = max(self.most_coming, len([job for job in coming if not job["stop_requested_at"]]))
            self.most_live = max(self.most_live, len(live))
            self.seen.update({job["name"]: job for job in record["jobs"]})

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()


def launch(stack: Stack, name: str, **policy: object) -> str:
    """Launch the scripted model under a policy, and return the deployment's id."""
    body = {"model": "demo/scripted", "name": name, "partition": "gpu_h200", "time": WALLTIME, "policy": policy}
    with stack.api() as api:
        answer = api.post("/v1/deployments", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def cancel(stack: Stack, identity: str) -> None:
    """Cancel the deployment, and wait until nothing of it is left."""
    stack.bouchet("cancel", identity)
    stack.wait_for_phase(identity, "ended", timeout_s=180)


@pytest.mark.timeout(600 + HOPS * 300)
def test_hand_over_under_load_fails_no_request_and_cuts_no_stream(stack: Stack, room: None) -> None:
    name = f"hop-{uuid.uuid4().hex[:6]}"
    identity = launch(stack, name, keep="6h")
    agents = Agents(stack, name, CLIENTS, longest=LONGEST)
    watch = Watch(stack, identity)
    watcher = threading.Thread(target=watch.run)
    try:
        stack.wait_for_phase(identity, "ready")
        watcher.start()
        agents.start()
        began = time.monotonic()

        def ended_jobs() -> list[dict[str, Any]]:
            return [job for job in watch.seen.values() if job["phase"] == "ended"]

        wait_for(
            lambda: len(ended_jobs()) >= HOPS or bool(agents.failed),
            HOPS * HOP_S,
            lambda: json.dumps(stack.deployment(identity)["service"], indent=1),
        )
        agents.stop()
        say(f"hand-over: {len(ended_jobs())} hops, {len(agents.turns)} turns in {time.monotonic() - began:.0f} s")
        say("\n".join(f"  {d['action']} {d['job']}: {d['reason']}" for d in decisions(stack, identity)))
        assert agents.failed == []
        assert watch.most_coming <= 1 and watch.most_live <= 2
        for job in ended_jobs():
            assert job["ending"] == "completed" and "retired" in job["reason"], job["reason"]
    finally:
        watch.stop()
        if watcher.ident is not None:
            watcher.join()
        cancel(stack, identity)
    assert jobs_in_slurm(stack, identity) == sorted(watch.seen), "a job was submitted twice, or none knows it"


def decisions(stack: Stack, identity: str) -> list[dict[str, Any]]:
    """Return the decision log."""
    return list(stack.deployment(identity)["service"]["decisions"])


def jobs_in_slurm(stack: Stack, identity: str) -> list[str]:
    """Return the names of all jobs that Slurm ever had for the deployment, each as often as it was submitted."""
    lines = stack.slurm("sacct", "-X", "-n", "-P", "-o", "JobName", "-S", "now-2hours").splitlines()
    return sorted(name for name in lines if name.startswith(f"bouchet-{identity}-"))
