"""Shared memory of a killed vLLM is removed with its job, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.remote.compute_node import ComputeNode, write_program

LEFT = ("psm_dead", "sem.mp-dead", "torch_1")


@pytest.fixture
def shared(node: ComputeNode) -> Path:
    """Make the node's shared memory, with an older segment in it."""
    folder = node.root / "shm"
    folder.mkdir()
    (folder / "psm_older").touch()
    node.environment["BOUCHET_SHM"] = str(folder)
    return folder


def left_in(shared: Path, node: ComputeNode) -> set[str]:
    """Return the names left after a job whose vLLM has created a few segments."""
    node.start()
    node.connection()
    for name in (*LEFT, "mine.dat"):
        (shared / name).touch()
    node.stop()
    return {path.name for path in shared.iterdir()}


@pytest.mark.slow
def test_segments_of_job_are_removed(node: ComputeNode, shared: Path) -> None:
    ps = shutil.which("ps")
    assert ps, "ps (procps) is part of every node"
    # as if the user had no other processes: lists only the session of this job
    write_program(node.root / "bin" / "ps", f'shift 2; exec {ps} -s "$({ps} -o sid= -p $$ | tr -d " ")" "$@"')
    assert left_in(shared, node) == {"psm_older", "mine.dat"}


@pytest.mark.slow
def test_segments_are_kept_while_user_has_other_processes(node: ComputeNode, shared: Path) -> None:
    assert left_in(shared, node) == {"psm_older", "mine.dat", *LEFT}
