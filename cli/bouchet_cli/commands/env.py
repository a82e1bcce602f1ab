"""`bouchet env`: the variables with which a client reaches a deployment."""

from __future__ import annotations

import argparse

from bouchet_cli.choice import ready_one
from bouchet_cli.claude_code import variables
from bouchet_cli.claude_env import foreign_variables, shell_lines
from bouchet_cli.tools import Tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet env`."""
    parser.add_argument("--model", metavar="NAME", help="which deployment (default: the newest)")
    parser.add_argument("--shell", choices=("posix", "fish"), default="posix", help="(default: posix: bash, zsh, dash)")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Prints the variables. They hold the key: that is what they are for."""
    live = tools.api.deployments(live=True)
    ours = variables(ready_one(live, options.model), live, tools)
    if options.json:
        tools.screen.show_json(ours)
    else:
        print("\n".join(shell_lines(ours, foreign_variables(tools.environment, ours), options.shell)))
