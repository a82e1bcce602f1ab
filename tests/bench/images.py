"""The CPU pin built twice: how long it takes, and how many installed files differ. The demo's own image stays."""

from __future__ import annotations

from collections.abc import Sequence

from tests.stack.harness import Stack
from tests.stack.images.image_tree import tree_of
from tests.waiting import wait_for

from .figures import Figure

PIN = "cpu-0.32.0"
STAGED = f"/staging/{PIN}"
# beside nothing that anybody serves from
FOLDERS = ("/home/researcher/bench-images/one", "/home/researcher/bench-images/two")
TARGET_S = 360.0
TIMEOUT_S = 1500.0


def build_twice(stack: Stack) -> list[Figure]:
    """Build twice, one after another, in jobs of two cores and 6 GB, by the script of `bouchet image build`."""
    try:
        took = [built_s(stack, folder) for folder in FOLDERS]
        one, two = (tree_of(stack, f"{folder}/{PIN}.sif").splitlines() for folder in FOLDERS)
    finally:
        stack.slurm("rm", "-rf", "/home/researcher/bench-images")
    note = f"{', '.join(f'{seconds:.0f} s' for seconds in took)}"
    differ = Figure("files in /opt/vllm that differ between two builds", differing(one, two), "", 0, f"of {len(one)}")
    return [Figure("image of the CPU pin, built on 2 cores", max(took), "s", TARGET_S, note), differ]


def built_s(stack: Stack, folder: str) -> float:
    """Return the elapsed seconds of a build job, by Slurm."""
    script = f"{STAGED}/build.sh"
    options = ["-p", "day", "-c", "2", "--mem=6G", "--output=/dev/null"]
    job = stack.slurm("sbatch", "--parsable", *options, script, STAGED, folder).strip()

    def over() -> list[str] | None:
        row = stack.slurm("sacct", "-X", "-n", "-P", "-j", job, "--format=State,ElapsedRaw").strip().split("|")
        return row if row[0] not in ("", "PENDING", "RUNNING", "COMPLETING") else None

    state, elapsed = wait_for(over, TIMEOUT_S)
    assert state == "COMPLETED", f"job {job}: {state}"
    return float(elapsed)


def differing(one: Sequence[str], two: Sequence[str]) -> int:
    """Count the paths whose lines of hash and path differ."""
    return len({line.split(" ", 1)[1] for line in set(one) ^ set(two)})
