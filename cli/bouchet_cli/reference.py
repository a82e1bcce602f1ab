"""`python -m bouchet_cli.reference FILE`: docs/cli.md, from the parser itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from .arguments import command_parser
from .commands import COMMANDS
from .commands.completion import SCRIPTS
from .legacy_flags import COMMANDS as SEED_COMMANDS

HEAD = """# The `bouchet` command

Made from the program by `make docs`; what the commands are for stands in the [guide](guide.md).

`bouchet [--model NAME] [-- ARGUMENTS]` starts Claude Code on what runs; where nothing does, it offers to launch.
Arguments behind `--` are Claude Code's. `bouchet COMMAND --help` prints what a command takes.

| exit status | means |
|---|---|
| 0 | done |
| 1 | it was tried and did not work |
| 2 | the command line is wrong |
| 3 | nothing runs, or what was asked for is not ready yet |
| 4 | the local stack does not answer, or there is no key |
| 130 | interrupted (Ctrl-C) |

Results go to stdout, everything about them to stderr. An error is one line that begins with `error: ` and says what
to do. Colours and moving lines appear on a terminal only; `NO_COLOR`, `TERM=dumb` and `COLUMNS` are heeded.
`--json` prints one object (`logs`: one a line) of the shapes that `/openapi.json` describes. Objects may gain fields;
none is taken away.

| command | `--json` prints |
|---|---|
| `launch`, `status NAME`, `orphans --adopt` | a deployment; `launch --dry-run` a preview |
| `status NAME --repro` | what ran: `model`, `revision`, `weights`, `image`, `software`, `slurm`, `container`, ... |
| `status` | `deployments`, and `tunnel` (null where the gateway does not answer) |
| `cancel` | `deployments`: those that are being ended |
| `models`, `usage`, `keys`, `tasks`, `orphans` | what `GET /v1/...` answers |
| `download` | `downloads`; with a model that download |
| `tunnel` | the tunnel's status |
| `logs` | `line`, an object a line |
| `env` | the variables by name; `--for key`: `key`; `--for` another client: `client`, `place`, `text` |
| `chat` | `model`, `answer`, `thoughts`, of the one question on stdin |
| `doctor` | `version` and `checks` (`area`, `name`, `verdict`, `said`, `fix`) |

| environment | means |
|---|---|
| `BOUCHET_ENV_FILE` | another file than `.env` |
| `BOUCHET_API_KEY`, `BOUCHET_API_URL`, `BOUCHET_PROXY_URL` | count before that file |
| `XDG_STATE_HOME` | where `bouchet chat` keeps its history (`bouchet/chat-history`, mode 0600) |
"""


def reference() -> str:
    """The whole page."""
    commands = (_section(name, about) for name, about in COMMANDS.items())
    return "\n".join([HEAD, *commands, _older(), _completion()])


def _section(name: str, about: str) -> str:
    parser = command_parser(name)
    lines = [f"## `bouchet {name}`", "", f"{about[0].upper()}{about[1:]}.", "", *_rows(parser), ""]
    for inner, inside in _inner(parser):
        lines += [f"### `bouchet {name} {inner}`", "", *_rows(inside), ""]
    return "\n".join(lines)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [a for a in parser._actions if a.help != argparse.SUPPRESS and not isinstance(a, argparse._HelpAction)]
    actions = [a for a in actions if not isinstance(a, argparse._SubParsersAction)]
    if actions:
        yield "| | |"
        yield "|---|---|"
    for action in actions:
        yield f"| `{_spelled(action)}` | {_cell(action.help or '')} |"


def _spelled(action: argparse.Action) -> str:
    """`--gpus N`, `MODEL`, `-f, --follow`."""
    takes = "" if action.nargs == 0 else _placeholder(action)
    if action.option_strings:
        return f"{', '.join(action.option_strings)} {takes}".strip()
    return f"{takes} ..." if action.nargs in ("*", "+") else takes


def _placeholder(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "\\|".join(map(str, action.choices))
    return action.dest.upper()


def _cell(text: str) -> str:
    return text.replace("%(default)s", "").replace("|", "\\|")


def _inner(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _older() -> str:
    rows = [f"| `bouchet {flag} ...` | `bouchet {words[0]} ...` |" for flag, words in SEED_COMMANDS.items()]
    head = "## Older spellings\n\nThey work as they did; `--launch` also starts Claude Code on a terminal.\n"
    return "\n".join([head, "| older | now |", "|---|---|", *rows, ""])


def _completion() -> str:
    first = [f"- {shell}: `{text.splitlines()[_line(shell)].partition(': ')[2]}`" for shell, text in SCRIPTS.items()]
    about = "Words, options, the catalog's models and the names of what runs. Silent while the stack is down."
    head = f"## Completion\n\n{about}\n"
    return "\n".join([head, *first, ""])


def _line(shell: str) -> int:
    """Where its script says how to install it; zsh wants its own mark in the first line."""
    return 1 if shell == "zsh" else 0


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
