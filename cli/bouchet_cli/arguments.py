"""The command line: the frame round the commands' own options, and what --help says."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import NoReturn

from . import VERSION
from .client.errors import UsageError
from .commands import COMMANDS, load
from .legacy_flags import translate

EXIT_STATUSES = """exit status:
  0 done    1 it did not work    2 the command line is wrong    3 nothing runs, or not yet
  4 the local stack does not answer    130 interrupted

Options after `--` go to Claude Code. The older spellings (bouchet --launch --model X, --status, ...) work too."""
# what these print is no data
WITHOUT_JSON = ("completion",)


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage: an error is one line."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake."""
        raise UsageError(_unknown_command(message) or f"{message}; see `{self.prog} --help`")


def _unknown_command(message: str) -> str:
    """argparse lists all commands; the nearest says more. Empty for any other mistake."""
    found = re.match(r"""argument COMMAND: invalid choice: (['"])(.*)\1 \(choose""", message)
    if not found:
        return ""
    near = difflib.get_close_matches(found[2], COMMANDS, n=1)
    hint = f"did you mean `bouchet {near[0]}`?" if near else "`bouchet --help` lists them"
    return f"there is no command {found[2]!r}; {hint}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; `command` is None for a bare `bouchet`, `claude_arguments` is what followed `--`."""
    ours, theirs = _split(arguments)
    ours = translate(ours)
    options, unknown = make_parser([name for name in COMMANDS if name in ours]).parse_known_args(ours)
    if unknown:
        program = f"bouchet {options.command}" if options.command else "bouchet"
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}; see `{program} --help`")
    options.claude_arguments = theirs
    if theirs and options.command not in (None, "launch", "completion"):
        raise UsageError("only `bouchet` and `bouchet launch` take arguments for Claude Code after `--`")
    return options


def make_parser(whole: Collection[str] = tuple(COMMANDS)) -> Parser:
    """All commands; only those in `whole` with their options, which costs the loading of their modules."""
    parser = Parser(
        prog="bouchet",
        description="Serve open models on a Slurm cluster and use them with Claude Code. "
        "Without a command: start Claude Code on what runs.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", metavar="NAME", help="which deployment, when several run (default: the newest)")
    parser.add_argument("--version", action="version", version=f"bouchet {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        if name in whole:
            _fill(command, name)
    return parser


def command_parser(name: str) -> Parser:
    """One command by itself."""
    parser = Parser(prog=f"bouchet {name}", description=COMMANDS[name], allow_abbrev=False)
    _fill(parser, name)
    return parser


def _fill(parser: Parser, name: str) -> None:
    load(name).add_arguments(parser)
    if name not in WITHOUT_JSON:
        parser.add_argument("--json", action="store_true", help="for programs")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return list(arguments), []
    border = list(arguments).index("--")
    return list(arguments[:border]), list(arguments[border + 1 :])
