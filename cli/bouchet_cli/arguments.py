"""The command line: commands, options and what --help says of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from .errors import UsageError
from .seed_flags import translate

EXIT_STATUSES = """exit status:
  0 done    1 it did not work    2 the command line is wrong    3 nothing runs, or not yet
  4 the local stack does not answer    130 interrupted

Options after `--` go to Claude Code. The older spellings (bouchet --launch --model X, --status, ...) work too."""
TIERS = ("opus", "sonnet", "haiku")


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage: an error is one line."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; `command` is None for a bare `bouchet`, `claude_arguments` is what followed `--`."""
    ours, theirs = _split(arguments)
    options = make_parser().parse_args(translate(ours))
    options.claude_arguments = theirs
    if theirs and options.command not in (None, "launch"):
        raise UsageError("only `bouchet` and `bouchet launch` take arguments for Claude Code after `--`")
    return options


def make_parser() -> Parser:
    """All commands."""
    parser = Parser(
        prog="bouchet",
        description="Serve open models on a Slurm cluster and use them with Claude Code. "
        "Without a command: start Claude Code on what runs.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", metavar="NAME", help="which deployment, when several run (default: the newest)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_launch(commands)
    _add_looking(commands)
    _add_using(commands)
    return parser


def _add_launch(commands: argparse._SubParsersAction[Parser]) -> None:
    launch = _command(commands, "launch", "submit a Slurm job that serves a model", json=True)
    launch.add_argument("positional_model", nargs="?", metavar="MODEL", help="id or name of the catalog")
    launch.add_argument("--model", metavar="MODEL", help="the same (default: the catalog's default)")
    launch.add_argument("--name", help="serve under this name (default: the catalog's)")
    launch.add_argument("--gpus", type=int, metavar="N")
    launch.add_argument("--nodes", type=int, metavar="N")
    launch.add_argument("--time", metavar="TIME", help="walltime, such as 06:00:00 or 2-00:00:00")
    launch.add_argument("--partition", metavar="P", help="(default: chosen by size and walltime)")
    launch.add_argument("--quant", choices=("fp8", "none"))
    launch.add_argument("--max-len", type=int, metavar="TOKENS", help="context window")
    launch.add_argument("--account")
    launch.add_argument("--qos")
    launch.add_argument("--constraint")
    launch.add_argument("--as", dest="serve_as", type=_tiers, default=(), metavar="TIERS",
                        help="Claude tiers it answers for: opus,sonnet,haiku")  # fmt: skip
    launch.add_argument("--idle-timeout", type=int, metavar="MINUTES", help="end after so long unused; 0 is never")
    launch.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None,
                        help="watch until the model answers (default: on a terminal)")  # fmt: skip
    launch.add_argument("--claude", action="store_true", help="start Claude Code when it is ready")
    launch.add_argument("--claude-on-terminal", action="store_true", help=argparse.SUPPRESS)


def _add_looking(commands: argparse._SubParsersAction[Parser]) -> None:
    status = _command(commands, "status", "what runs, why a job waits, when it will start", json=True)
    status.add_argument("--all", action="store_true", help="also what has ended")
    _command(commands, "models", "the catalog", json=True)
    cancel = _command(commands, "cancel", "end deployments and give their GPUs back", json=True)
    cancel.add_argument("names", nargs="*", metavar="NAME", help="id or name; may be left out when only one runs")
    cancel.add_argument("--all", action="store_true", help="end everything that runs")
    logs = _command(commands, "logs", "what the job has written", json=True)
    logs.add_argument("name", nargs="?", metavar="NAME", help="id or name (default: the newest)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the deployment ends")
    tunnel = _command(commands, "tunnel", "the SSH connection: show it, answer its prompts (Duo)", json=True)
    tunnel.add_argument("--connect", action="store_true", help="try to connect now")


def _add_using(commands: argparse._SubParsersAction[Parser]) -> None:
    env = _command(commands, "env", 'variables for a client: eval "$(bouchet env)"', json=True)
    env.add_argument("--model", metavar="NAME", help="which deployment (default: the newest)")
    env.add_argument("--shell", choices=("posix", "fish"), default="posix", help="(default: posix: bash, zsh, dash)")
    chat = _command(commands, "chat", "talk with a model here")
    chat.add_argument("--model", metavar="NAME", help="which deployment (default: the newest)")
    chat.add_argument("--system", metavar="TEXT", help="the system prompt")


def _command(commands: argparse._SubParsersAction[Parser], name: str, about: str, *, json: bool = False) -> Parser:
    parser = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
    if json:
        parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _tiers(text: str) -> tuple[str, ...]:
    tiers = tuple(part.strip() for part in text.split(",") if part.strip())
    if wrong := [tier for tier in tiers if tier not in TIERS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(TIERS)}")
    return tiers


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return list(arguments), []
    border = list(arguments).index("--")
    return list(arguments[:border]), list(arguments[border + 1 :])
