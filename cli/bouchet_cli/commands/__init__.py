"""The commands, in the order of the help. Their modules are imported only when a command is used: start-up is quick.

A command NAME is an entry of COMMANDS, and two functions in the module named there: `add_NAME_arguments(parser)` and
`run_NAME(options, context)`. Every command gets `--json` by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from bouchet_cli.context import CommandContext

# the command of a bare `bouchet`
BARE = "claude"


@dataclass(frozen=True)
class CommandEntry:
    """A command in the help. module: in this package."""

    summary: str
    module: str


@dataclass(frozen=True)
class LoadedCommand:
    """The functions of a command. `run` raises CommandError subclasses."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, CommandContext], None]


COMMANDS: Mapping[str, CommandEntry] = {
    "setup": CommandEntry("set up everything, from a fresh clone to the first answer on a cluster", "setup"),
    "launch": CommandEntry("submit a Slurm job that serves a model", "launch"),
    "status": CommandEntry("show deployments: what is running, why a job is waiting, when it will start", "status"),
    "top": CommandEntry("watch deployments, figures and open requests in the terminal", "top"),
    "open": CommandEntry("open the dashboard in the browser, signed in", "top"),
    "chat": CommandEntry("chat with a model in the terminal", "chat"),
    "env": CommandEntry('print the settings of a client: eval "$(bouchet env)"', "clients"),
    "logs": CommandEntry("print the log of a deployment's job", "status"),
    "keep": CommandEntry("change how long, when and for how much a model is kept", "keep"),
    "attach": CommandEntry("serve a model server that others run on the cluster's network", "launch"),
    "cancel": CommandEntry("stop deployments and release their GPUs", "launch"),
    "models": CommandEntry("list, describe, add and remove models", "models"),
    "download": CommandEntry("download a model to the cluster", "download"),
    "image": CommandEntry("build, list, verify and remove container images on the cluster", "image"),
    "site": CommandEntry("write a site file for a cluster from what it says of itself", "site"),
    "tunnel": CommandEntry("show the SSH connection and answer its login prompts (Duo)", "tunnel"),
    "doctor": CommandEntry("check the local stack, the SSH connection and the cluster, and suggest fixes", "doctor"),
    "notify": CommandEntry("show where messages are sent (phone, chat, mail), and try it", "tasks"),
    "keys": CommandEntry("add, list and revoke API keys for other people", "keys"),
    "usage": CommandEntry("show usage: requests, tokens, speed, errors", "keys"),
    "completion": CommandEntry("print the completion code for bash, zsh or fish", "completion"),
    "tasks": CommandEntry("list, retry and discard failed background tasks", "tasks"),
    "orphans": CommandEntry("list, adopt and cancel Slurm jobs that no deployment lists", "tasks"),
}


def load(name: str) -> LoadedCommand:
    """Import a command of COMMANDS, or BARE."""
    module = import_module(f"{__name__}.{COMMANDS[name].module if name in COMMANDS else 'clients'}")
    return LoadedCommand(getattr(module, f"add_{name}_arguments"), getattr(module, f"run_{name}"))
