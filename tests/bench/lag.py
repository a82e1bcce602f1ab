"""How long after Slurm has started a job we know it."""

from __future__ import annotations

import uuid
from datetime import datetime

from tests.stack.harness import Stack

from .figures import Figure

TIMES = 3


def seen_running(stack: Stack) -> list[Figure]:
    """Launch jobs and cancel each when it starts. Slurm's times are whole seconds, so up to 1 s is its own."""
    lags = [_lag(stack) for _ in range(TIMES)]
    note = ", ".join(f"{lag:.1f}" for lag in lags)
    return [Figure("from RUNNING in Slurm to our seeing it, the slowest", max(lags), "s", 5, note)]


def _lag(stack: Stack) -> float:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    done = stack.bouchet("launch", "demo/scripted", "--partition", "gpu_h200", "--name", name, "--no-wait")
    assert done.status == 0, done.output
    record = stack.wait_for_phase(name, "starting", "ready")
    job = record["jobs"][-1]
    assert stack.bouchet("cancel", name).status == 0
    words = ["env", "SLURM_TIME_FORMAT=%s", "sacct", "-X", "-n", "-P", "-o", "Start", "-j", str(job["slurm_id"])]
    started = float(stack.slurm(*words).split()[-1])
    stack.wait_for_phase(record["id"], "ended", timeout_s=120)
    return datetime.fromisoformat(job["since"]["starting"]).timestamp() - started
