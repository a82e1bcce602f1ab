"""The Debian base image: demo/base_image.sh pulls it where a registry answers, else makes it with mmdebstrap."""

from __future__ import annotations

import shutil
from pathlib import Path

from setup.command import run, try_run
from setup.errors import CommandFailedError, DiskFullError, SetupError
from setup.progress import Progress
from setup.python.packages import ensure_program

SUITE = "trixie"
NAME = "debian:trixie-slim"
DEMO_NODE_NAME = "debian:bookworm-slim"  # what vLLM's image for the demo is made from (apptainer/pins)


def ensure_base_image(progress: Progress, root: Path, name: str = NAME, suite: str = SUITE) -> str:
    """The id of the base image, after getting it if need be."""
    known = try_run(["docker", "image", "inspect", "--format", "{{.Id}}", name])
    if known:
        return known.strip()
    with progress.step(f"base image {name}") as step:
        step.say("pulled, or made of this machine's own package source")
        _get(progress, root, name, suite)
    return run(["docker", "image", "inspect", "--format", "{{.Id}}", name]).strip()


def ensure_base_source(progress: Progress, root: Path, name: str = NAME, suite: str = SUITE) -> None:
    """A registry that gives base images, or mmdebstrap to make them.

    Comes before the steps that run side by side, since two of them need a base image and apt installs one at a time.
    """
    if shutil.which("mmdebstrap") or try_run(["docker", "image", "inspect", "--format", "{{.Id}}", name]):
        return
    try:
        run(_argv(root, name, suite))
    except DiskFullError:
        raise
    except CommandFailedError:
        advice = f"no registry gives {name}, and without it nothing can make it; `docker pull {name}` may say why"
        ensure_program(progress, "mmdebstrap", ["mmdebstrap"], advice)


def _get(progress: Progress, root: Path, name: str, suite: str) -> None:
    ensure_base_source(progress, root, name, suite)
    try:
        run(_argv(root, name, suite))
    except DiskFullError:
        raise
    except CommandFailedError as exc:
        raise SetupError(f"no registry gives {name}, and it could not be made here: {exc}") from exc


def _argv(root: Path, name: str, suite: str) -> list[str]:
    return ["bash", str(root / "demo" / "base_image.sh"), name, suite]
