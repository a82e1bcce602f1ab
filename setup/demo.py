"""The demo's provisioning (demo/provision): its parts for us are two commands."""

from __future__ import annotations

import shlex
import sys

from .command import run
from .docker.compose import Compose
from .docker.stack import Stack
from .progress import Progress


def stage(progress: Progress, stack: Stack, compose: Compose) -> None:
    """Fetch what the nodes need and cannot fetch; needs no container, so it runs while images are built."""
    _provision(progress, stack, compose, "stage", "demo: fetching packages and models")


def install(progress: Progress, stack: Stack, compose: Compose) -> None:
    """Build the SIF and put the model in place, in Slurm jobs of the demo cluster."""
    _provision(progress, stack, compose, "install", "demo: Apptainer image and model on the cluster")


def _provision(progress: Progress, stack: Stack, compose: Compose, verb: str, title: str) -> None:
    with progress.step(title) as step:
        run(
            [sys.executable, "-m", "demo.provision", verb],
            env={**compose.env, "COMPOSE": shlex.join(compose.prefix), "PYTHONUNBUFFERED": "1"},
            cwd=stack.root,
            on_line=lambda line: step.say(line[-70:]),
        )
