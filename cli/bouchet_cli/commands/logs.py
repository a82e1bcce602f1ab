"""`bouchet logs`: what the job has written."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from bouchet_cli.client.api import Api, Message
from bouchet_cli.client.errors import CommandError, NotReadyError, UnreachableError
from bouchet_cli.tools import Tools
from bouchet_cli.view.screen import Screen

RECONNECT_S = 1.0
RECONNECTS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet logs`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="id or name (default: the newest)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the deployment ends")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Prints the end of the log; with --follow goes on until the deployment ends."""
    api, screen = tools.api, tools.screen
    name = api.remembered(options.name).id if options.name else _newest(api)
    for message in _messages(api, name, options.follow):
        if message.event == "problem":
            _problem(message, options.follow, screen)
        elif options.json:
            screen.show_json_lines([message.data])
        else:
            screen.show(message.data["line"])


def _messages(api: Api, name: str, follow: bool) -> Iterator[Message]:
    """The stream; one that is followed goes on behind its last line when the connection breaks."""
    after: str | None = None
    failures = 0
    while True:
        try:
            for message in api.log(name, follow=follow, after=after):
                after, failures = message.id or after, 0
                yield message
            return
        except UnreachableError as exc:
            failures += 1
            if not follow or after is None or exc.kind or failures > RECONNECTS:
                raise
            time.sleep(RECONNECT_S)


def _problem(message: Message, follow: bool, screen: Screen) -> None:
    if not follow:
        raise CommandError(message.data["detail"], message.data["kind"])
    screen.warn(message.data["detail"])


def _newest(api: Api) -> str:
    newest = api.deployments(live=True, limit=1) or api.deployments(live=False, limit=1)
    if not newest:
        raise NotReadyError("nothing was ever launched; `bouchet launch` starts a model")
    return newest[0].id
