"""Renewal on the demo cluster: jobs with a short walltime hand over to each other while clients work.

Part of `make soak`; test_service.py has one hop, and tests/service some without a cluster.
BOUCHET_HOPS: number of hand-overs (2, in `make soak` 10); BOUCHET_HOP_TIME: walltime of each job, longer on a slow
machine.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from tests.stack.harness import Stack, say
from tests.stack.service.clients import Agents, Turn
from tests.waiting import wait_for

SOAK = bool(os.environ.get("BOUCHET_SOAK"))
HOPS = int(os.environ.get("BOUCHET_HOPS", "10" if SOAK else "2"))
CLIENTS = 8 if SOAK else 4
WALLTIME = os.environ.get("BOUCHET_HOP_TIME", "00:04:00")
HOP_S = 420.0
# streams are this long while nothing else works: two to three times as long while two jobs serve and a third one starts
STREAM_S, LONGEST = 20.0, 3000
# the share of a prompt that makes it a hit of the prefix cache; seconds until the proxy knows of a ready successor
HIT, NEWS_S = 0.9, 5.0


@dataclass
class Watch:
    """Looks at a deployment all the time: which jobs it has, how many of them are on their way, and how many serve.

    A successor of the successor may be on its way while the longest answer of the first job still runs.
    """

    stack: Stack
    identity: str
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_coming: int = 0
    most_serving: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until stopped."""
        while not self._stopping.wait(0.5):
            record = self.stack.deployment(self.identity)
            live = [job for job in record["jobs"] if job["phase"] != "ended"]
            coming = [job for job in live if job["phase"] in ("requested", "submitting", "queued", "starting")]
            self.most_coming = max(self.most_coming, len([job for job in coming if not job["stop_requested_at"]]))
            self.most_serving = max(self.most_serving, len(live) - len(coming))
            self.seen.update({job["name"]: job for job in record["jobs"]})

    def ended(self) -> list[dict[str, Any]]:
        """Return the jobs that have ended."""
        return [job for job in self.seen.values() if job["phase"] == "ended"]

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
def test_hand_overs_in_a_row_fail_no_request_and_cut_no_stream(stack: Stack, room: None) -> None:
    check_hand_overs(stack, HOPS, CLIENTS)


def check_hand_overs(stack: Stack, hops: int, clients: int) -> None:
    """Let that many jobs in a row hand over while clients work, and check what they and Slurm have seen."""
    name = f"hop-{uuid.uuid4().hex[:6]}"
    identity = launch(stack, name, keep="6h")
    agents = Agents(stack, name, clients)
    watch = Watch(stack, identity)
    watcher = threading.Thread(target=watch.run)
    try:
        stack.wait_for_phase(identity, "ready", timeout_s=HOP_S)
        watcher.start()
        agents.longest = min(LONGEST, round(STREAM_S * agents.measure_rate()))
        say(f"hand-over: streams of up to {agents.longest} numbers")
        agents.start()
        began = time.monotonic()
        wait_for(
            lambda: len(watch.ended()) >= hops or bool(agents.failed),
            hops * HOP_S,
            lambda: json.dumps(stack.deployment(identity)["service"], indent=1),
        )
        agents.stop()
        say(f"hand-over: {len(watch.ended())} hops, {len(agents.turns)} turns in {time.monotonic() - began:.0f} s")
        say("\n".join(f"  {d['action']} {d['job']}: {d['reason']}" for d in decisions(stack, identity)))
        assert agents.failed == []
        assert watch.most_coming <= 1 and watch.most_serving <= 2
        for job in watch.ended():
            assert job["ending"] == "completed" and "retired" in job["reason"], job["reason"]
        check_overlaps(watch, max(turn.took_s for turn in agents.turns))
        check_prefix_cache(agents, watch)
    finally:
        watch.stop()
        if watcher.ident is not None:
            watcher.join()
        cancel(stack, identity)
    assert jobs_in_slurm(stack, identity) == sorted(watch.seen), "a job was submitted twice, or none knows it"


def check_overlaps(watch: Watch, longest_answer_s: float) -> None:
    """Check for how long two jobs held GPUs at a hop: a start, the longest answer, and half a minute at most."""
    for old in watch.ended():
        successor = next((job for job in watch.seen.values() if job["replaces"] == old["name"]), None)
        assert successor is not None, f"{old['name']} ended without a successor"
        since = {phase: datetime.fromisoformat(at).timestamp() for phase, at in successor["since"].items()}
        ended = datetime.fromisoformat(old["since"]["ended"]).timestamp()
        overlap_s, start_s = ended - since["starting"], since["ready"] - since["starting"]
        say(f"  overlap {overlap_s:.0f} s: start {start_s:.0f} s, longest answer {longest_answer_s:.0f} s")
        assert overlap_s <= start_s + longest_answer_s + 30


def check_prefix_cache(agents: Agents, watch: Watch) -> None:
    """Check that a conversation misses the prefix cache at its first turn on a job alone."""
    moved_at = [
        datetime.fromisoformat(job["since"]["ready"]).timestamp()
        for job in watch.seen.values()
        if job["replaces"] and "ready" in job["since"]
    ]
    conversations: dict[str, list[Turn]] = {}
    for turn in agents.turns:
        conversations.setdefault(turn.session, []).append(turn)
    hits: list[float] = []
    for turns in conversations.values():
        shares = [turn.cached for turn in turns[1:]]
        missed = sum(share < HIT for share in shares)
        # the proxy knows of a successor moments after the record does
        moves = sum(turns[0].at - NEWS_S < at < turns[-1].at for at in moved_at)
        assert missed <= moves, f"{missed} turns missed the prefix cache, with {moves} successors meanwhile: {shares}"
        hits += [share for share in shares if share >= HIT]
    later = len(agents.turns) - len(conversations)
    say(f"  prefix cache: {len(hits)} of {later} later turns at {sum(hits) / max(1, len(hits)):.1%}")
    assert hits, "no turn was found in the prefix cache"


def decisions(stack: Stack, identity: str) -> list[dict[str, Any]]:
    """Return the decision log."""
    return list(stack.deployment(identity)["service"]["decisions"])


def jobs_in_slurm(stack: Stack, identity: str) -> list[str]:
    """Return the names of all jobs that Slurm ever had for the deployment, each as often as it was submitted."""
    lines = stack.slurm("sacct", "-X", "-n", "-P", "-o", "JobName", "-S", "now-2hours").splitlines()
    return sorted(name for name in lines if name.startswith(f"bouchet-{identity}-"))
