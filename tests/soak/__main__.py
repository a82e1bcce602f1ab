"""`make soak`: the long runs. Random kills, hand-overs, cancelled starts, links cut under load, random requests.

Most have a short version in `make test`. Stack tests that `make test` leaves out are marked `long`.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.stack.harness import ROOT

STACK_TESTS = ("tests/stack/faults/test_random_kills.py", "tests/stack/faults/test_cancelled_starts.py")
LONG_TESTS = ("-m", "long", "tests/stack")
SERVICE_TESTS = ("tests/stack/service/hand_over.py", "tests/stack/service/on_demand.py")
LINK_TESTS = ("tests/stack/faults/link_cut_sessions.py", "tests/stack/faults/long_cut_sessions.py")
CLUSTER_TESTS = ("tests/stack/clusters/flavour_runs.py", "tests/stack/clusters/login_flavours.py")
RUNS = (
    ("-m", "pytest", "-v", "--timeout", "3600", *STACK_TESTS),
    ("-m", "pytest", "-v", "--timeout", "3600", *LONG_TESTS),
    ("-m", "pytest", "-v", "--timeout", "3600", *SERVICE_TESTS),
    ("-m", "pytest", "-v", "--timeout", "3600", *LINK_TESTS),
    ("-m", "pytest", "-v", "--timeout", "3600", *CLUSTER_TESTS),
    ("-m", "tests.soak.link_cuts"),
    ("-m", "tests.soak.cut_answers"),
    ("-m", "tests.soak.hand_over"),
    ("-m", "tests.soak.orphaned_answers"),
    ("-m", "tests.soak.api_fuzz"),
    ("-m", "pytest", "-v", "--timeout", "7200", "--hypothesis-profile", "soak", "tests/proxy/test_any_request.py"),
)


def main() -> int:
    """Run all of them, also after a failure; return 1 if one failed."""
    environment = {**os.environ, "BOUCHET_SOAK": "1"}
    statuses = [
        subprocess.run([sys.executable, *run], cwd=ROOT, env=environment, check=False).returncode for run in RUNS
    ]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
