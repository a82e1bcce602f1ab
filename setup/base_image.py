"""The Debian base image: demo/base_image.sh pulls it where a registry answers, else makes it with mmdebstrap."""

from __future__ import annotations

import shutil
from pathlib import Path

from .command import run, try_run
from .errors import CommandFailed, DiskFull, SetupError
from .packages import ensure_program
from .progress import Progress

SUITE = "trixie"
NAME = "debian:trixie-slim"


def ensure_base_image(progress: Progress, root: Path, name: str = NAME, suite: str = SUITE) -> str:
    """The id of the base image, after getting it if need be."""
    known = try_run(["docker", "image", "inspect", "--format", "{{.Id}}", name])
    if known:
        return known.strip()
    with progress.step(f"base image {name}") as step:
        step.say("pulled, or made of this machine's own package source")
        _get(progress, root, name, suite)
    return run(["docker", "image", "inspect", "--format", "{{.Id}}", name]).strip()


def _get(progress: Progress, root: Path, name: str, suite: str) -> None:
    argv = ["bash", str(root / "demo" / "base_image.sh"), name, suite]
    try:
        run(argv)
    except DiskFull:
        raise
    except CommandFailed as exc:
        if shutil.which("mmdebstrap"):
            raise SetupError(f"no registry gives {name}, and it could not be made here: {exc}") from exc
        advice = f"no registry gives {name}, and without it nothing can make it; `docker pull {name}` may say why"
        ensure_program(progress, "mmdebstrap", ["mmdebstrap"], advice)
        run(argv)
