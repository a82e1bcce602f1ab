"""The commands: one module each, loaded only when it is named, so that every call starts at once.

A command is a line in COMMANDS and a module of that name here, with two functions: `add_arguments(parser)` says what
may be typed, `run(options, tools)` does it. `--json` is added by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

from bouchet_cli.tools import Tools

# name -> what --help says; in the order of the help
COMMANDS: Mapping[str, str] = {
    "launch": "submit a Slurm job that serves a model",
    "status": "what runs, why a job waits, when it will start",
    "models": "the catalog, and what of it lies on the cluster",
    "download": "fetch a model to the cluster",
    "image": "the container images on the cluster: build, list, verify, remove",
    "cancel": "end deployments and give their GPUs back",
    "orphans": "jobs on the cluster without a record: take them over or end them",
    "tasks": "what the worker could not do, after all its tries",
    "logs": "what the job has written",
    "tunnel": "the SSH connection: show it, answer its prompts (Duo)",
    "env": 'variables for a client: eval "$(bouchet env)"',
    "chat": "talk with a model here",
    "keys": "keys for others who share this stack: add, list, revoke",
    "usage": "who used how much: tokens, speed, errors",
    "doctor": "look at everything between here and the GPUs, and say what to do",
    "completion": "completion for bash, zsh or fish",
}


class Command(Protocol):
    """What a module here has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Says what may be typed."""

    def run(self, options: argparse.Namespace, tools: Tools) -> None:
        """Does it. Raises CommandError subclasses."""


def load(name: str) -> Command:
    """The module of a command of COMMANDS."""
    return cast(Command, import_module(f"{__name__}.{name}"))
