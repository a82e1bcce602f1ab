"""Fifty kills during twenty launches and cancels: the stack's own test, with its full number."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.stack.harness import ROOT, Stack

from .figures import Figure

KILLS = 50


def kill_at_random(stack: Stack) -> list[Figure]:
    """1 when a job was doubled, lost or left over; what the test said stands on the terminal."""
    del stack
    environment = {**os.environ, "BOUCHET_KILLS": str(KILLS), "BOUCHET_TEST_KEEP": "1"}
    argv = [sys.executable, "-m", "pytest", "-q", "tests/stack/faults/test_random_kills.py"]
    status = subprocess.run(argv, cwd=ROOT, env=environment, stdout=sys.stderr, check=False).returncode
    title = f"runs that doubled, lost or left over a job, {KILLS} kills during {KILLS * 2 // 5} launches"
    return [Figure(title, float(status != 0), "", 0)]
