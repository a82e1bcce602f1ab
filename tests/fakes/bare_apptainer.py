"""A fake `apptainer exec` that runs the program without a container, in the same folders, under this Python.

It checks that the program is in a bind, and gives it the environment that Apptainer would.
"""

from __future__ import annotations

import os
import sys

WITH_VALUE = {"--bind", "--no-mount", "--pwd"}


def main() -> int:
    """Replace this process by the program."""
    argv, at = sys.argv[1:], 1
    binds: list[list[str]] = []
    while argv[at].startswith("--"):
        if argv[at] in WITH_VALUE:
            at += 1
            if argv[at - 1] == "--bind":
                binds.append(argv[at].split(":"))
        at += 1
    command = argv[at + 1 :]
    scratch = next(source for source, target, *_ in binds if target == "/tmp")
    script = command[1]
    assert any(script.startswith(f"{target}/") for _, target, *_ in binds), f"{script} is in no bind: {binds}"
    # HF_HUB_OFFLINE: as apptainer/vllm.def sets it
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": scratch, "HF_HUB_OFFLINE": "1"}
    for name, value in os.environ.items():
        if name.startswith("APPTAINERENV_"):
            environment[name.removeprefix("APPTAINERENV_")] = value.replace("/tmp/", f"{scratch}/")
    os.execve(sys.executable, [sys.executable, *command[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
