"""A fake `srun` in a job of two nodes: runs its command here, as the second node's task, and passes SIGTERM on.

It writes argv and environment to $FAKE_SRUN_RECORD with `srun` for {}; the fake Apptainer of the task writes to that
name with `1`. $FAKE_SRUN_MODE: that Apptainer's mode; $FAKE_SRUN_JOB_DIR: another job folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Return the task's exit status."""
    record = os.environ["FAKE_SRUN_RECORD"]
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    task = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    Path(record.format("srun")).write_text(json.dumps({"argv": sys.argv, "environment": dict(os.environ)}))
    assert all("=" in flag or flag == "--overlap" for flag in flags), flags
    environment = {
        **os.environ,
        "SLURM_PROCID": "0",
        "SLURMD_NODENAME": "node8",
        "FAKE_APPTAINER_RECORD": record.format("1"),
        "FAKE_APPTAINER_MODE": os.environ.get("FAKE_SRUN_MODE", "serve"),
    }
    task[2] = os.environ.get("FAKE_SRUN_JOB_DIR", task[2])
    running = subprocess.Popen(task, env=environment, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: running.send_signal(signal.SIGTERM))
    status = running.wait()
    if status:
        print(f"srun: error: node8: task 0: Exited with exit code {status}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
