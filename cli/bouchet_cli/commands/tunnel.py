"""`bouchet tunnel`: the SSH connection, and the questions of its login."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

from bouchet_cli.api import Api
from bouchet_cli.errors import CommandError, NotReadyError
from bouchet_cli.prompts import answer_prompt
from bouchet_cli.records import Tunnel
from bouchet_cli.render import tunnel_line
from bouchet_cli.screen import Screen
from bouchet_cli.tools import Tools

POLL_S = 0.5
# a Duo push wants a telephone to be found
LOGIN_S = 120.0
ON_THE_WAY = ("connecting", "needs_human")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet tunnel`."""
    parser.add_argument("--connect", action="store_true", help="try to connect now")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Shows it; on a terminal asks what the login asks until it is up. NotReadyError while it is not."""
    api, screen = tools.api, tools.screen
    if options.connect:
        api.connect()
    now = api.tunnel()
    if screen.interactive and not options.json:
        now = _log_in(api, now, screen)
    if options.json:
        screen.show_json(now.raw)
    else:
        screen.show(tunnel_line(now, datetime.now(UTC)))
    if now.prompt:
        raise NotReadyError(f"the login asks: {' / '.join(text for text, _ in now.prompt.questions)}")
    if now.state == "refused":
        raise CommandError(
            f"the login was refused: {now.detail or 'no reason given'}; `bouchet tunnel --connect` retries"
        )
    if now.state != "up":
        raise NotReadyError(f"the tunnel is {now.state}")


def _log_in(api: Api, now: Tunnel, screen: Screen) -> Tunnel:
    """Answers and waits until the tunnel is up, was refused, or LOGIN_S have passed."""
    deadline = time.monotonic() + LOGIN_S
    while now.state in ON_THE_WAY and time.monotonic() < deadline:
        if now.prompt:
            answer_prompt(api, now.prompt, screen)
        time.sleep(POLL_S)
        now = api.tunnel()
    return now
