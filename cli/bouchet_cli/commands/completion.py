"""`bouchet completion`: print the code with which a shell completes the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from bouchet_cli.client.errors import UsageError
from bouchet_cli.context import CommandContext

PROGRAMS = ("bouchet", "./bouchet")
# shell -> how to install the code
INSTALL: Mapping[str, str] = {
    "bash": 'in ~/.bashrc: eval "$(bouchet completion bash)"',
    "zsh": 'in ~/.zshrc, after compinit: eval "$(bouchet completion zsh)"',
    "fish": "once: bouchet completion fish > ~/.config/fish/completions/bouchet.fish",
}


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet completion`."""
    parser.add_argument("shell", nargs="?", choices=tuple(INSTALL), help="shell that will read the code")


def run_completion(options: argparse.Namespace, context: CommandContext) -> None:
    """Print the code of a shell."""
    if options.shell is None:
        raise UsageError(f"name a shell ({', '.join(INSTALL)}); {INSTALL['bash']}")
    from argcomplete.shell_integration import shellcode

    # without use_defaults bash does not offer local files, which no option takes
    print(shellcode(PROGRAMS, use_defaults=False, shell=options.shell).strip())
