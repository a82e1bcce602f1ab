"""What our batch script adds to a bare `vllm serve` of the same image, arguments and node; and a second start."""

from __future__ import annotations

import shlex
import statistics
from dataclasses import dataclass

from tests.stack.harness import READY_TIMEOUT_S, Stack
from tests.waiting import wait_for

from .chain import MODEL
from .figures import Figure
from .start import PORT, ROOT, bare_line, environment_of, launch_s, seconds

ROUNDS = 3
ADDED_S = 3.0
# measuring a second start twice on a busy machine differs by as much
NOISE_S = 1.0
LOGS = f"{ROOT}/logs"
KEPT = f"{ROOT}/bench-job"
RESOURCES = ("-p", "gpu_h200", "--gpus=h200:1", "-c", "2", "--mem=6G", "-w", "node2")


@dataclass(frozen=True)
class Staged:
    """A job's folders as a launch has left them, and vLLM's words as it ran."""

    job_dir: str
    scripts: str
    command: list[str]
    kernels: str
    env: dict[str, str]


def compare_scripts(stack: Stack) -> list[Figure]:
    """Measure from the first moment of the job to /health, alternating. Slurm's own time is in neither."""
    staged = stage(stack)
    stack.slurm("rm", "-rf", staged.kernels)
    first = ours_s(stack, staged)
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(bare_s(stack, staged))
        ours.append(ours_s(stack, staged))
    added = statistics.median(ours) - statistics.median(bare)
    note = f"ours {seconds(ours)}; bare {seconds(bare)}"
    second = Figure("second start beside the first", ours[0] - first, "s", NOISE_S, f"first, no kernels {first:.1f} s")
    return [Figure("batch script, beyond a bare vllm serve", added, "s", ADDED_S, note), second]


def stage(stack: Stack) -> Staged:
    """Stage the job files with a launch that is cancelled once it was ready."""
    launch_s(stack)
    record = stack.deployment(MODEL)
    job = record["jobs"][-1]
    shown = stack.slurm("scontrol", "show", "job", str(job["slurm_id"]))
    scripts = next(word for word in shown.split() if word.startswith("Command=")).removeprefix("Command=")
    # the files of an ended job are swept
    stack.slurm("rm", "-rf", KEPT)
    stack.slurm("cp", "-a", f"{ROOT}/jobs/{job['name']}", KEPT)
    stack.bouchet("cancel", MODEL)
    wait_for(lambda: not [d for d in stack.deployments() if MODEL in d["names"]], 90)
    folder = scripts.rpartition("/")[0]
    kernels = f"{ROOT}/cache/{job['image_sha256'][:16]}"
    return Staged(KEPT, folder, list(job["command"]), kernels, environment_of(stack, job))


def ours_s(stack: Stack, staged: Staged) -> float:
    """Run the batch script once."""
    script = [f"{staged.scripts}/vllm-serve.sbatch", staged.job_dir, staged.scripts]
    # kernels are kept once the watch has seen it answer
    then = f"for _ in $(seq 200); do grep -qs ok {LOGS}/heartbeat-$job.json && break; sleep 0.2; done"
    port = "$(sed -n 's/^ *\"port\": \\([0-9]*\\).*/\\1/p' " + LOGS + "/connection-$job.json 2>/dev/null)"
    return timed(stack, script, port, then)


def bare_s(stack: Stack, staged: Staged) -> float:
    """Run the same vLLM without our scripts."""
    line = bare_line(list(staged.command), staged.env)
    return timed(stack, ["--wrap", line], str(PORT))


def timed(stack: Stack, script: list[str], port: str, then: str = ":") -> float:
    """Measure seconds between the creation of the job's log and a good /health. port, then: shell code about $job."""
    submit = shlex.join(["sbatch", "--parsable", *RESOURCES, "-o", f"{LOGS}/%j.log", *script])
    look = f"""
        job=$({submit}) || exit 1
        for _ in $(seq {READY_TIMEOUT_S * 5}); do
            port={port}
            if [ -n "$port" ] && curl -sf -m 2 -o /dev/null "http://node2:$port/health"; then
                date +%s.%N; stat -c %.W {LOGS}/$job.log; break
            fi
            sleep 0.2
        done
        {then}
        scancel "$job"
        while squeue -h -j "$job" 2>/dev/null | grep -q .; do sleep 0.5; done
    """
    done = stack.on("demo-login", ["bash", "-lc", look], user="researcher")
    assert done.status == 0 and len(done.stdout.split()) == 2, done.output
    healthy, began = map(float, done.stdout.split())
    return healthy - began
