"""`python -m bouchet_cli`, started by `./bouchet`."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from .api import Api
from .arguments import parse
from .commands.chat import chat
from .commands.claude import connect, env, start_claude
from .commands.launch import launch
from .commands.logs import logs
from .commands.looking import cancel, models, status
from .commands.tunnel import tunnel
from .errors import CommandError
from .screen import Screen
from .settings import Settings, read_settings

INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Runs one command; the exit status (see arguments.EXIT_STATUSES)."""
    screen = Screen()
    try:
        options = parse(arguments)
        settings = read_settings(os.environ)
        with Api(settings) as api:
            _run(options, api, screen, settings)
    except CommandError as exc:
        screen.fail(str(exc))
        return exc.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader (head, less) has seen enough; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(options: Namespace, api: Api, screen: Screen, settings: Settings) -> None:
    match options.command:
        case None:
            connect(options, api, screen, settings)
        case "launch":
            _launch(options, api, screen, settings)
        case "status":
            status(options, api, screen)
        case "models":
            models(options, api, screen)
        case "cancel":
            cancel(options, api, screen)
        case "logs":
            logs(options, api, screen)
        case "tunnel":
            tunnel(options, api, screen)
        case "env":
            env(options, api, screen, settings)
        case "chat":
            chat(options, api, screen, settings)


def _launch(options: Namespace, api: Api, screen: Screen, settings: Settings) -> None:
    """Launches, and starts Claude Code where that was asked for."""
    wanted = options.claude or (options.claude_on_terminal and screen.interactive and options.wait is not False)
    options.claude = wanted
    ready = launch(options, api, screen)
    if wanted:
        start_claude(ready, options.claude_arguments, api, screen, settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
