"""What a dead vLLM leaves in the node's shared memory goes with its job, and nobody else's does."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.remote.compute_node import ComputeNode, write_program

LEFT = ("psm_dead", "sem.mp-dead", "torch_1")


@pytest.fixture
def shared(node: ComputeNode) -> Path:
    """The node's shared memory, with something older in it."""
    folder = node.root / "shm"
    folder.mkdir()
    (folder / "psm_older").touch()
    node.environment["BOUCHET_SHM"] = str(folder)
    return folder


def left_in(shared: Path, node: ComputeNode) -> set[str]:
    """What lies there after a job whose vLLM has made a few things."""
    node.start()
    node.connection()
    for name in (*LEFT, "mine.dat"):
        (shared / name).touch()
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    return {path.name for path in shared.iterdir()}


def test_a_jobs_own_segments_go_with_it(node: ComputeNode, shared: Path) -> None:
    ps = shutil.which("ps")
    assert ps, "ps (procps) is part of every node"
    # a user of whom nothing else runs there: only what this job has started
    write_program(node.root / "bin" / "ps", f'shift 2; exec {ps} -s "$({ps} -o sid= -p $$)" "$@"')
    assert left_in(shared, node) == {"psm_older", "mine.dat"}


def test_while_the_user_has_other_processes_there_all_of_it_stays(node: ComputeNode, shared: Path) -> None:
    assert left_in(shared, node) == {"psm_older", "mine.dat", *LEFT}
