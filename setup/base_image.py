"""The Debian base image: pulled where a registry answers, else made of the machine's own package source."""

from __future__ import annotations

import platform
from pathlib import Path

from .command import run, try_run
from .errors import CommandFailed, DiskFull, SetupError
from .packages import can_install, ensure_program
from .progress import Progress

SUITE = "trixie"
NAME = "debian:trixie-slim"


def ensure_base_image(progress: Progress, root: Path, name: str = NAME, suite: str = SUITE) -> str:
    """The id of the base image, after getting it if need be."""
    known = try_run(["docker", "image", "inspect", "--format", "{{.Id}}", name])
    if known:
        return known.strip()
    with progress.step(f"base image {name}") as step:
        if try_run(["docker", "pull", "--quiet", name]) is None:
            step.say("no registry answers; making it with mmdebstrap")
            _make(progress, root, name, suite)
    return run(["docker", "image", "inspect", "--format", "{{.Id}}", name]).strip()


def _make(progress: Progress, root: Path, name: str, suite: str) -> None:
    if platform.system() != "Linux" or not can_install():
        raise SetupError(
            f"no registry gives {name}, and only root on Debian can make it here; try `docker pull {name}`"
        )
    ensure_program(progress, "mmdebstrap", ["mmdebstrap"])
    try:
        run(["bash", str(root / "demo" / "base_image.sh"), name, suite])
    except DiskFull:
        raise
    except CommandFailed as exc:
        raise SetupError(f"no registry gives {name}, and it could not be made here: {exc}") from exc
