"""Debian packages that root may install when they are missing; anybody else is told which."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from setup.command import Environ, run, try_run
from setup.errors import ToolMissingError
from setup.progress import Progress

QUIET: Environ = {"DEBIAN_FRONTEND": "noninteractive"}


def can_install() -> bool:
    """Whether apt is here and is ours to use."""
    return os.getuid() == 0 and shutil.which("apt-get") is not None


def ensure_program(progress: Progress, program: str, packages: Sequence[str], advice: str = "") -> None:
    """Make sure that `program` is on PATH, by apt if need be."""
    if shutil.which(program) is None:
        install(progress, program, packages, advice)


def install(progress: Progress, what: str, packages: Sequence[str], advice: str = "") -> None:
    """Install Debian packages, saying so; ToolMissingError if that is not ours to do."""
    wanted = " ".join(packages)
    if not can_install():
        raise ToolMissingError(what, advice or f"install it (on Debian and Ubuntu: `sudo apt-get install {wanted}`)")
    with progress.step(f"installing {wanted} (apt)") as step:
        run(["apt-get", "update"], env=QUIET)
        known = [name for name in packages if try_run(["apt-cache", "show", name])]  # names differ between releases
        run(
            ["apt-get", "install", "-y", "--no-install-recommends", *(known or packages)],
            env=QUIET,
            on_line=step.say,
        )
