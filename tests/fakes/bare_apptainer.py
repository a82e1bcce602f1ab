"""Stands for `apptainer exec` where the program inside may as well run outside: no container, the same folders.

Checks that a program comes to no more than the binds allow, gives it the environment that Apptainer would, and takes
this Python for the image's.
"""

from __future__ import annotations

import os
import sys

WITH_VALUE = {"--bind", "--no-mount", "--pwd"}


def main() -> int:
    """Becomes the program."""
    words, at, binds = sys.argv[1:], 1, []
    while words[at].startswith("--"):
        if words[at] in WITH_VALUE:
            at += 1
            if words[at - 1] == "--bind":
                binds.append(words[at].split(":"))
        at += 1
    command = words[at + 1 :]
    scratch = next(source for source, inside, *_ in binds if inside == "/tmp")
    script = command[1]
    assert any(script.startswith(f"{inside}/") for _, inside, *_ in binds), f"{script} is in no bind: {binds}"
    # as apptainer/vllm.def sets it for vLLM
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": scratch, "HF_HUB_OFFLINE": "1"}
    for name, value in os.environ.items():
        if name.startswith("APPTAINERENV_"):
            environment[name.removeprefix("APPTAINERENV_")] = value.replace("/tmp/", f"{scratch}/")
    os.execve(sys.executable, [sys.executable, *command[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
