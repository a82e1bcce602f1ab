"""The older spelling of the commands: `bouchet --launch --model X` is `bouchet launch --model X`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .client.errors import UsageError

# `--launch` also started Claude Code when the model was ready, hence its own word
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "--launch": ("launch", "--claude-on-terminal"),
    "--status": ("status",),
    "--models": ("models",),
    "--download": ("download",),
    "--cancel": ("cancel",),
    "--chat": ("chat",),
    "--tunnel": ("tunnel",),
}


def translate(arguments: Sequence[str]) -> list[str]:
    """The arguments with the command in front; unchanged when they begin with a command or name none."""
    if not arguments or not arguments[0].startswith("-"):
        return list(arguments)
    chosen = [argument for argument in arguments if argument in COMMANDS]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} cannot be combined; give one command at a time")
    if not chosen:
        return list(arguments)
    return [*COMMANDS[chosen[0]], *(argument for argument in arguments if argument != chosen[0])]
