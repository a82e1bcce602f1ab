"""`bouchet tunnel`: the SSH connection, the questions of its login, and a plain port to a model."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, NotReadyError, UsageError
from bouchet_cli.client.records import Tunnel
from bouchet_cli.integrations.local_port import LISTEN, open_port
from bouchet_cli.select import ready_one
from bouchet_cli.tools import Tools
from bouchet_cli.view.prompts import answer_prompt
from bouchet_cli.view.screen import Screen
from bouchet_cli.view.tunnel import tunnel_lines, watch

POLL_S = 0.5
# a Duo push wants a telephone to be found
LOGIN_S = 120.0
SETTLE_S = 5.0
MOST_PORT = 65535
ON_THE_WAY = ("connecting", "needs_human")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet tunnel`."""
    parser.add_argument("--connect", action="store_true", help="try to connect now")
    parser.add_argument("--watch", action="store_true", help="show it live until Ctrl-C")
    parser.add_argument("--trust", nargs="?", const="", metavar="SHA256:...",
                        help="accept the unknown host key that the cluster shows")  # fmt: skip
    parser.add_argument("--port", type=int, metavar="PORT",
                        help="open 127.0.0.1:PORT, which leads to the model's vLLM, until Ctrl-C")  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="which deployment --port leads to (default: the newest)")
    parser.add_argument("--forget", metavar="HOST", help="no longer trust the keys accepted for that host")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Shows it; on a terminal asks what the login asks until it is up. NotReadyError while it is not."""
    api, screen = tools.api, tools.screen
    _check(options)
    _ask_for(options, api, screen)
    if options.port is not None:
        _open(options, tools)
        return
    now = api.tunnel()
    if screen.interactive and not options.json:
        now = _log_in(api, now, screen)
    if options.watch:
        watch(api, screen)
    if options.json:
        screen.show_json(now.raw)
    else:
        screen.show(*tunnel_lines(now, datetime.now(UTC)))
    if now.prompt:
        raise NotReadyError(f"the login asks: {' / '.join(text for text, _ in now.prompt.questions)}")
    if now.state == "refused":
        raise CommandError(
            f"the login was refused: {now.detail or 'no reason given'}; `bouchet tunnel --connect` retries"
        )
    if now.state != "up":
        raise NotReadyError(f"the tunnel is {now.state}")


def _check(options: argparse.Namespace) -> None:
    if options.watch and options.json:
        raise UsageError("--watch is for people; `bouchet tunnel --json` asks once")
    if options.port is None:
        return
    if options.watch or options.json:
        raise UsageError("--port goes on until Ctrl-C; --watch and --json are commands of their own")
    if not 0 <= options.port <= MOST_PORT:
        raise UsageError(f"{options.port} is no port; one looks like 8000")


def _open(options: argparse.Namespace, tools: Tools) -> None:
    """A plain port, until Ctrl-C."""
    alias = ready_one(tools.api.deployments(live=True), options.model).alias

    def say(port: int) -> None:
        tools.screen.say(
            f"http://{LISTEN}:{port} leads to the vLLM of {alias}, until Ctrl-C; the model's name is {alias}"
        )
        tools.screen.say("Everybody on this machine can use it while it is open: it asks for no key.", "dim")

    open_port(tools.settings, options.port, alias, say)


def _ask_for(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    """What the options want changed."""
    if options.connect:
        api.connect()
    if options.forget:
        api.forget(options.forget)
        screen.say(f"forgotten: the keys of {options.forget}")
    if options.trust is not None:
        _trust(options.trust, api, screen)


def _trust(fingerprint: str, api: Api, screen: Screen) -> None:
    """Accepts the key that waits, if it is the one with that fingerprint; on a terminal asks for a word instead."""
    key = api.tunnel().host_key
    if key is None:
        raise CommandError("no host key waits to be trusted; `bouchet tunnel` shows how the connection is")
    if not fingerprint:
        screen.say(f"{key.place} shows this host key:\n  {key.algorithm} {key.fingerprint}")
        if not screen.interactive:
            raise CommandError(
                f"compare it with what the site publishes, then `bouchet tunnel --trust {key.fingerprint}`"
            )
        screen.say("Is it the one that the site publishes? (yes/no) ", end="")
        if input().strip().lower() != "yes":
            raise CommandError("not trusted; nothing was changed")
        fingerprint = key.fingerprint
    api.trust(fingerprint)
    _settle(api)


def _settle(api: Api) -> None:
    """Waits until the connection attempt that was just asked for has come to something."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and api.tunnel().state in ("refused", "connecting"):
        time.sleep(POLL_S)


def _log_in(api: Api, now: Tunnel, screen: Screen) -> Tunnel:
    """Answers and waits until the tunnel is up, was refused, or LOGIN_S have passed."""
    deadline = time.monotonic() + LOGIN_S
    while now.state in ON_THE_WAY and time.monotonic() < deadline:
        if now.prompt:
            answer_prompt(api, now.prompt, screen)
        time.sleep(POLL_S)
        now = api.tunnel()
    return now
