"""The command line: parser, help text, and the older spelling of the commands."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

from . import VERSION
from .client.errors import UsageError
from .commands import COMMANDS, load

EXIT_STATUSES = """exit status:
  0 success    1 failed    2 wrong command line    3 nothing of that name, or not ready yet
  4 the local stack does not answer    130 interrupted

Options after `--` are passed to Claude Code. Older spellings (bouchet --launch --model X, --status, ...) still work."""
# their output is not data
WITHOUT_JSON = ("completion",)
# older spelling -> arguments. `--launch` also started Claude Code as soon as the model was ready.
LEGACY_FLAGS: Mapping[str, tuple[str, ...]] = {
    "--launch": ("launch", "--claude-on-terminal"),
    "--status": ("status",),
    "--models": ("models",),
    "--download": ("download",),
    "--cancel": ("cancel",),
    "--chat": ("chat",),
    "--tunnel": ("tunnel",),
}


class CommandParser(argparse.ArgumentParser):
    """Raises UsageError for a wrong command line, so that an error is one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError. Called by argparse for every mistake."""
        raise UsageError(_unknown_command(message) or f"{message}; see `{self.prog} --help`")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line.

    `command` is None for a bare `bouchet`; `claude_arguments` are those after `--`.
    """
    own, claude_arguments = _split(arguments)
    if (foreign := _option_of_claude(own)) is not None:
        passed = shlex.join(own[own.index(foreign) :])
        hint = f"options of Claude Code go after `--`: `bouchet -- {passed}`"
        raise UsageError(f"{foreign} is not an option of bouchet (see `bouchet --help`); {hint}")
    own = translate_legacy(own)
    options, unknown = make_parser([name for name in COMMANDS if name in own]).parse_known_args(own)
    if unknown:
        raise UsageError(_unknown_arguments(unknown, options.command))
    options.claude_arguments = claude_arguments
    if claude_arguments and options.command not in (None, "launch"):
        raise UsageError("only `bouchet` and `bouchet launch` take arguments for Claude Code after `--`")
    return options


def translate_legacy(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the command first (`--launch --model X` becomes `launch --model X`).

    Arguments that begin with a command, or have no older spelling in them, are returned unchanged.
    """
    if not arguments or not arguments[0].startswith("-"):
        return list(arguments)
    chosen = [argument for argument in arguments if argument in LEGACY_FLAGS]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} cannot be combined; give one command at a time")
    if not chosen:
        return list(arguments)
    return [*LEGACY_FLAGS[chosen[0]], *(argument for argument in arguments if argument != chosen[0])]


def make_parser(loaded: Collection[str] = tuple(COMMANDS)) -> CommandParser:
    """Return the parser of all commands. Only those in `loaded` get options: the others' modules are not imported."""
    parser = CommandParser(
        prog="bouchet",
        description="Serve open models on a Slurm cluster and use them with Claude Code.\n"
        "Without a command: start Claude Code with a running model.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", metavar="NAME", help="deployment to use (default: the newest ready one)")
    parser.add_argument("--version", action="version", version=f"bouchet {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=CommandParser)
    for name, entry in COMMANDS.items():
        command = commands.add_parser(
            name, help=entry.summary, description=_sentence(entry.summary), allow_abbrev=False
        )
        if name in loaded:
            _add_arguments(command, name)
    return parser


def command_parser(name: str) -> CommandParser:
    """Return the parser of one command."""
    parser = CommandParser(prog=f"bouchet {name}", description=_sentence(COMMANDS[name].summary), allow_abbrev=False)
    _add_arguments(parser, name)
    return parser


def _add_arguments(parser: CommandParser, name: str) -> None:
    load(name).add_arguments(parser)
    if name not in WITHOUT_JSON:
        parser.add_argument("--json", action="store_true", help="print JSON")


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return list(arguments), []
    border = list(arguments).index("--")
    return list(arguments[:border]), list(arguments[border + 1 :])


def _option_of_claude(arguments: Sequence[str]) -> str | None:
    """Return the first option before any command that is none of ours; an option's value is skipped."""
    known = {"-h", "--help", "--version", "--model", *LEGACY_FLAGS}
    if set(arguments) & LEGACY_FLAGS.keys():
        return None
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if before == "--model":
            continue
        if not argument.startswith("-"):
            return None
        if argument.partition("=")[0] not in known:
            return argument
    return None


def _unknown_arguments(unknown: Sequence[str], command: str | None) -> str:
    """Return a message that suggests the nearest option, where one of the arguments is close to it."""
    program = f"bouchet {command}" if command else "bouchet"
    known = _option_names(command_parser(command)) if command else ["--model", "--version"]
    for argument in unknown:
        near = difflib.get_close_matches(argument.partition("=")[0], known, n=1) if argument.startswith("--") else []
        if near:
            return f"{program} has no option {argument.partition('=')[0]}; did you mean {near[0]}?"
    many = "argument" if len(unknown) == 1 else "arguments"
    return f"{program} does not take the {many} {shlex.join(unknown)}; see `{program} --help`"


def _option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the long options in a parser's usage line."""
    return sorted(set(re.findall(r"--[a-z][a-z-]+", parser.format_help())))


def _unknown_command(message: str) -> str:
    """Return a message that suggests the nearest command, where argparse lists all; empty for another mistake."""
    found = re.match(r"""argument COMMAND: invalid choice: (['"])(.*)\1 \(choose""", message)
    if not found:
        return ""
    near = difflib.get_close_matches(found[2], COMMANDS, n=1)
    hint = f"did you mean `bouchet {near[0]}`?" if near else "see `bouchet --help`"
    return f"there is no command {found[2]!r}; {hint}"
