"""`bouchet completion`: shell completion with argcomplete. Names come from the API and the pins.

This module is imported only for `bouchet completion`, and when a shell asks for completions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TextIO

from argcomplete.completers import BaseCompleter
from argcomplete.finders import CompletionFinder
from argcomplete.shell_integration import shellcode

from bouchet_cli.arguments import make_parser
from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.commands import COMMANDS
from bouchet_cli.context import CommandContext
from bouchet_cli.integrations.claude_env import TIERS
from bouchet_cli.view.screen import clean

PROGRAMS = ("bouchet", "./bouchet")
# shell -> where a line belongs, and the line that installs the code
INSTALL: Mapping[str, tuple[str, str]] = {
    "bash": ("in ~/.bashrc", 'eval "$(bouchet completion bash)"'),
    "zsh": ("in ~/.zshrc, after compinit", 'eval "$(bouchet completion zsh)"'),
    "fish": ("once", "bouchet completion fish > ~/.config/fish/completions/bouchet.fish"),
}
# a person waits at the TAB key
LOOKUP_TIMEOUT_S = 1.0


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet completion`."""
    parser.add_argument("shell", nargs="?", choices=tuple(INSTALL), help="shell that will read the code")


def run_completion(options: argparse.Namespace, context: CommandContext) -> None:
    """Print the code of a shell."""
    if options.shell is None:
        raise UsageError(f"name a shell ({', '.join(INSTALL)}); {': '.join(INSTALL['bash'])}")
    # without use_defaults bash does not offer local files, which no option takes
    print(shellcode(PROGRAMS, use_defaults=False, shell=options.shell).strip())


class ValueCompleter(BaseCompleter):
    """Completes the values of options and positional arguments by their placeholder in the help."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context

    def __call__(self, *, action: argparse.Action, **_: object) -> Mapping[str, str]:
        """Return the values with their descriptions."""
        return option_values(str(action.metavar), self._context)


class CommandCompletionFinder(CompletionFinder):
    """Offers options only where no value can follow, or after a typed `-`."""

    def filter_completions(self, completions: list[str]) -> list[str]:
        """Return the completions that argcomplete keeps, without options if there are values."""
        kept = super().filter_completions(completions)
        return [completion for completion in kept if not completion.startswith("-")] or kept


def complete(
    context: CommandContext, output: TextIO | None = None, exit_process: Callable[[int], object] = os._exit
) -> None:
    """Write the completions of the command line in COMP_LINE to the shell, and exit."""
    line = context.environment.get("COMP_LINE", "").split()
    parser = make_parser([name for name in COMMANDS if name in line])
    CommandCompletionFinder()(
        parser,
        always_complete_options="long",
        exit_method=exit_process,
        output_stream=output,
        default_completer=ValueCompleter(context),
    )


def option_values(placeholder: str, context: CommandContext) -> dict[str, str]:
    """Return the values of a placeholder in the help (`MODEL`, `NAME`, ...), each with its description.

    Empty if the API does not answer within LOOKUP_TIMEOUT_S.
    """
    try:
        match placeholder:
            case "MODEL":
                return _models(_api(context))
            case "NAME":
                live = _api(context).deployments(live=True)
                return {clean(d.alias): clean(f"{d.model}, {d.phase}") for d in live}
            case "PIN":
                return {path.parent.name: "" for path in sorted(PROJECT.glob("apptainer/pins/*/pin.yaml"))}
            case "TIERS":
                return dict.fromkeys(TIERS, "")
    except CommandError:
        pass  # a message would garble the command line that is being typed
    return {}


def _api(context: CommandContext) -> ApiClient:
    return ApiClient(context.settings, LOOKUP_TIMEOUT_S)


def _models(api: ApiClient) -> dict[str, str]:
    models = api.models()["models"]
    return {clean(name): clean(model["description"]) for model in models for name in (model["alias"], model["id"])}
