"""A queue that is too long to be sent whole: only our own jobs are printed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS

FORMAT = "%A|%T|%j"


def list_queue(folder: Path, squeue: str) -> subprocess.CompletedProcess[str]:
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n{squeue}\n")
    program.chmod(0o755)
    argv = [OLDEST, str(SCRIPTS / "list_queue.py"), FORMAT]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_only_our_jobs_are_printed(tmp_path: Path) -> None:
    rows = "1|RUNNING|train\n2|RUNNING|bouchet-aa-1\n3|PENDING|my|bouchet-x\n4|PENDING|bouchet-download-a--b-|x\n"
    (tmp_path / "rows").write_text(rows * 5000)
    done = list_queue(tmp_path, f'[ "$*" = "--me --noheader --format={FORMAT}" ] && cat {tmp_path}/rows')
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(set(done.stdout.splitlines())) == ["2|RUNNING|bouchet-aa-1", "4|PENDING|bouchet-download-a--b-|x"]


def test_times_are_printed_as_seconds(tmp_path: Path) -> None:
    assert list_queue(tmp_path, 'echo "1|$SLURM_TIME_FORMAT|bouchet-aa-1"').stdout == "1|%s|bouchet-aa-1\n"


@pytest.mark.parametrize("status", [1, 2])
def test_failure_of_squeue_is_passed_on(tmp_path: Path, status: int) -> None:
    done = list_queue(tmp_path, f"echo 'slurm_load_jobs error: down' >&2; exit {status}")
    assert (done.returncode, done.stdout) == (status, "") and "down" in done.stderr
