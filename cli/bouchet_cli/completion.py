"""Shell completion with argcomplete: commands and options from the parser, names from the API and the pins."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TextIO

from argcomplete.completers import BaseCompleter
from argcomplete.finders import CompletionFinder

from .arguments import make_parser
from .client.api import ApiClient
from .client.errors import CommandError
from .client.settings import PROJECT
from .commands import COMMANDS
from .context import CommandContext
from .integrations.claude_env import TIERS
from .view.text import clean

# a person waits at the TAB key
LOOKUP_TIMEOUT_S = 1.0


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
