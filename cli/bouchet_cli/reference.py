"""`python -m bouchet_cli.reference FILE`: write docs/cli.md from the parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from .arguments import LEGACY_FLAGS, command_parser
from .commands import COMMANDS
from .commands.completion import INSTALL

HEAD = """# The `bouchet` command

Generated from the program by `make docs`; do not edit. The [guide](guide.md) explains what the commands are for.

`bouchet [--model NAME] [-- ARGUMENTS]` starts Claude Code with a running model; if there is none, it offers to launch
one. Arguments after `--` are passed to Claude Code. `bouchet COMMAND --help` shows the options of a command.

| exit status | meaning |
|---|---|
| 0 | success |
| 1 | the command was tried and failed |
| 2 | the command line is wrong |
| 3 | no deployment is running, or it is not ready yet |
| 4 | the local stack does not answer, or there is no key |
| 130 | interrupted (Ctrl-C) |

Results go to stdout, messages to stderr. An error is one line that begins with `error: ` and ends with the next step.
Colours and progress bars appear only on a terminal; `NO_COLOR`, `TERM=dumb` and `COLUMNS` are respected. Without a
terminal, tables are neither cut nor wrapped. `--json` prints one object (`logs`: one per line); `/openapi.json`
describes the fields. Later versions may add fields; they do not remove any.

| command | `--json` prints |
|---|---|
| `launch`, `status NAME`, `orphans --adopt ID` | a deployment; `launch --dry-run`: a preview |
| `status NAME --repro` | what ran: `model`, `revision`, `weights`, `image`, `software`, `slurm`, `container`, ... |
| `status` | `deployments`, `ended`, `ended_more`, `tunnel` or `tunnel_error`, `cluster_outage`, `orphans` |
| `cancel` | `deployments`: those that are being cancelled |
| `models`, `usage`, `keys`, `tasks`, `orphans` | the answer of `GET /v1/...` |
| `download` | `downloads`; with a model: that download |
| `tunnel` | the status of the tunnel |
| `logs` | `line`, one object per line |
| `env` | the variables by name; `--for key`: `key`; `--for` another client: `client`, `place`, `text` |
| `chat` | `model`, `answer`, `thoughts` for the question on stdin |
| `doctor` | `version` and `checks` (`area`, `name`, `verdict`, `message`, `fix`) |

| environment variable | meaning |
|---|---|
| `BOUCHET_ENV_FILE` | path of the env file (default: `.env` in the project) |
| `BOUCHET_ADMIN_KEY`, `BOUCHET_API_URL`, `BOUCHET_API_KEY`, `BOUCHET_PROXY_URL` | take precedence over that file |
| `XDG_STATE_HOME` | where `bouchet chat` keeps its history (`bouchet/chat-history`, mode 0600) |
"""


def reference() -> str:
    """Return the whole page."""
    commands = (_section(name) for name in COMMANDS)
    return "\n".join([HEAD, *commands, _legacy(), _completion()])


def _section(name: str) -> str:
    parser = command_parser(name)
    lines = [f"## `bouchet {name}`", "", str(parser.description), "", *_rows(parser), ""]
    for action, inner in _actions(parser):
        lines += [f"### `bouchet {name} {action}`", "", *_rows(inner), ""]
    return "\n".join(lines)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    # argparse has no public list of its options
    actions = [a for a in parser._actions if a.help != argparse.SUPPRESS and not isinstance(a, argparse._HelpAction)]
    actions = [a for a in actions if not isinstance(a, argparse._SubParsersAction)]
    if actions:
        yield "| | |"
        yield "|---|---|"
    for action in actions:
        yield f"| `{_spelling(action)}` | {_cell(action.help or '')} |"


def _spelling(action: argparse.Action) -> str:
    """Return `--gpus N`, `MODEL` or `-f, --follow`."""
    value = "" if action.nargs == 0 else _placeholder(action)
    if action.option_strings:
        return f"{', '.join(action.option_strings)} {value}".strip()
    return f"{value} ..." if action.nargs in ("*", "+") else value


def _placeholder(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "\\|".join(map(str, action.choices))
    return action.dest.upper()


def _cell(text: str) -> str:
    return text.replace("%(default)s", "").replace("|", "\\|")


def _actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _legacy() -> str:
    rows = [f"| `bouchet {flag} ...` | `bouchet {arguments[0]} ...` |" for flag, arguments in LEGACY_FLAGS.items()]
    text = "## Older spellings\n\nThey still work; on a terminal, `--launch` also starts Claude Code.\n"
    return "\n".join([text, "| older | current |", "|---|---|", *rows, ""])


def _completion() -> str:
    rows = [f"- {shell}, {place}: `{line}`" for shell, (place, line) in INSTALL.items()]
    text = "## Completion\n\nCompletes commands, options, models of the catalog and names of running deployments.\n"
    return "\n".join([text, *rows, ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
