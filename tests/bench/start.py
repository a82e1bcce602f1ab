"""From `launch` to ready, against the same `vllm serve` started bare in the same kind of job."""

from __future__ import annotations

import json
import shlex
import statistics
import time
from typing import Any

from tests.stack.harness import READY_TIMEOUT_S, Stack
from tests.waiting import wait_for

from .chain import MODEL
from .figures import Figure

ROUNDS = 2
TARGET_S = 20.0
PORT = 28765
IMAGE = "/software/images/cpu-0.32.0.sif"
ROOT = "/home/researcher/bouchet-llm"


def compare_starts(stack: Stack) -> list[Figure]:
    """Measure what script, staging, reconcile and health checks add to vLLM's own start. The model stays running."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(launch_s(stack))
        job = stack.deployment(MODEL)["jobs"][-1]
        line = bare_line(job["command"], environment_of(stack, job))
        stack.bouchet("cancel", MODEL)
        wait_for(lambda: not [d for d in stack.deployments() if MODEL in d["names"]], 90)
        bare.append(bare_s(stack, line))
    launch_s(stack)
    added = statistics.median(ours) - statistics.median(bare)
    note = f"launch to ready {seconds(ours)}; bare vllm serve to /health {seconds(bare)}"
    return [Figure("launch to ready, beyond vLLM's own start", added, "s", TARGET_S, note)]


def launch_s(stack: Stack) -> float:
    """Measure seconds from `bouchet launch` to ready."""
    started = time.monotonic()
    done = stack.bouchet("launch", "demo/scripted", "--partition", "gpu_h200", "--no-wait", "--json")
    assert done.status == 0, done.output
    stack.wait_for_phase(MODEL, "ready")
    return time.monotonic() - started


def bare_s(stack: Stack, line: str) -> float:
    """Measure seconds from sbatch of a bare `vllm serve` with the same arguments to its /health."""
    started = time.monotonic()
    job = stack.slurm(
        "sbatch",
        "--parsable",
        "-p",
        "gpu_h200",
        "--gpus=h200:1",
        "-c",
        "2",
        "--mem=6G",
        "-w",
        "node2",
        "-o",
        "/dev/null",
        "--wrap",
        line,
    ).strip()
    try:
        url = f"http://node2:{PORT}/health"
        wait_for(lambda: stack.on("demo-login", ["curl", "-sf", "-m", "2", url]).status == 0, READY_TIMEOUT_S)
        return time.monotonic() - started
    finally:
        stack.slurm("scancel", job)
        wait_for(lambda: not stack.slurm("squeue", "-h", "--me", "-n", "wrap", "-o", "%i").strip(), 60)


def bare_line(command: list[Any], env: dict[str, str]) -> str:
    """Return the recorded vLLM arguments with the same environment, without our guard, on a fixed port."""
    words = [str(word) for word in command]
    serve = words[words.index("serve") :]
    for option in ("--middleware", "--port", "--host"):
        if option in serve:
            place = serve.index(option)
            del serve[place : place + 2]
    container = ["apptainer", "exec", "--nv", "--cleanenv", "--no-home", "--bind", "/software", "--env"]
    given = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1", **env}
    container.append(",".join(f"{name}={value}" for name, value in given.items()))
    return shlex.join([*container, IMAGE, "vllm", *serve, "--host", "0.0.0.0", "--port", str(PORT)])


def environment_of(stack: Stack, job: dict[str, Any]) -> dict[str, str]:
    """Return vLLM's environment from the job's spec: variables of catalog and site, threads among them."""
    given: dict[str, str] = json.loads(stack.slurm("cat", f"{ROOT}/jobs/{job['name']}/spec.json"))["env"]
    return given


def seconds(values: list[float]) -> str:
    """Format values for a note."""
    return ", ".join(f"{value:.1f} s" for value in values)
