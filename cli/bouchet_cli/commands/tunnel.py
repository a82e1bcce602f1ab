"""`bouchet tunnel`: the SSH connection, the prompts of its login, and a local port for a model."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.errors import CommandError, NotReadyError, UsageError
from bouchet_cli.client.records import TunnelInfo
from bouchet_cli.context import CommandContext
from bouchet_cli.integrations.local_port import LISTEN, open_port
from bouchet_cli.view.screen import Screen
from bouchet_cli.view.tunnel import answer_prompt, tunnel_lines, watch_tunnel

POLL_INTERVAL_S = 0.5
# time to answer a Duo push on the phone
LOGIN_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0
MAX_PORT = 65535
CONNECTING = ("connecting", "needs_human")


def add_tunnel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet tunnel`."""
    parser.add_argument("--connect", action="store_true", help="connect now")
    parser.add_argument("--watch", action="store_true", help="show changes live until Ctrl-C")
    parser.add_argument("--trust", nargs="?", const="", metavar="SHA256:...",
                        help="accept the cluster's unknown host key")  # fmt: skip
    parser.add_argument("--port", type=int, metavar="PORT",
                        help="forward 127.0.0.1:PORT to the model's vLLM until Ctrl-C")  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="with --port: deployment to use (default: the newest)")
    parser.add_argument("--forget", metavar="HOST", help="remove the accepted host keys of HOST")


def run_tunnel(options: argparse.Namespace, context: CommandContext) -> None:
    """Show the tunnel; on a terminal answer its login prompts until it is up. Raises NotReadyError if it is not up."""
    api, screen = context.api, context.screen
    _check(options)
    _apply_changes(options, api, screen)
    if options.port is not None:
        _open_port(options, context)
        return
    tunnel = api.tunnel()
    if screen.interactive and not options.json:
        tunnel = _log_in(api, tunnel, screen)
    if options.watch:
        watch_tunnel(api, screen)
    if options.json:
        screen.show_json(tunnel.raw)
    else:
        screen.show(*tunnel_lines(tunnel, datetime.now(UTC)))
    _check_up(tunnel)


def connect(context: CommandContext) -> None:
    """Connect, asking the person what the login asks, until the tunnel is up. Raises CommandError if it is not."""
    api, screen = context.api, context.screen
    tunnel = api.tunnel()
    if tunnel.state in ("down", "refused") and tunnel.host_key is None:
        api.connect()
        time.sleep(POLL_INTERVAL_S)
        tunnel = api.tunnel()
    tunnel = _log_in(api, tunnel, screen)
    if tunnel.host_key is not None:
        _trust("", api, screen)
        tunnel = _log_in(api, api.tunnel(), screen)
    screen.note(f"the tunnel to {tunnel.host} is {tunnel.state}")
    _check_up(tunnel)


def _check(options: argparse.Namespace) -> None:
    if options.watch and options.json:
        raise UsageError("--watch has no JSON output; use `bouchet tunnel --json` for the current state")
    if options.port is None:
        return
    if options.watch or options.json:
        raise UsageError("--port runs until Ctrl-C and cannot be combined with --watch or --json")
    if not 0 <= options.port <= MAX_PORT:
        raise UsageError(f"{options.port} is not a port (1-{MAX_PORT})")


def _check_up(tunnel: TunnelInfo) -> None:
    if tunnel.prompt:
        raise NotReadyError(f"login prompt: {' / '.join(text for text, _ in tunnel.prompt.questions)}")
    if tunnel.state == "refused":
        raise CommandError(
            f"login refused: {tunnel.detail or 'no reason given'}; retry with `bouchet tunnel --connect`"
        )
    if tunnel.state != "up":
        raise NotReadyError(f"the tunnel is {tunnel.state}")


def _open_port(options: argparse.Namespace, context: CommandContext) -> None:
    """Forward a local port until Ctrl-C."""
    alias, screen = context.ready_deployment(options.model).alias, context.screen

    def announce(port: int) -> None:
        screen.note(f"http://{LISTEN}:{port} forwards to the vLLM of {alias} until Ctrl-C; the model name is {alias}")
        screen.note("No key needed: anyone on this machine can use it while it runs.", "dim")

    open_port(context.settings, options.port, alias, announce)


def _apply_changes(options: argparse.Namespace, api: ApiClient, screen: Screen) -> None:
    if options.connect:
        api.connect()
    if options.forget:
        api.forget(options.forget)
        screen.note(f"removed the host keys of {options.forget}")
    if options.trust is not None:
        _trust(options.trust, api, screen)


def _trust(fingerprint: str, api: ApiClient, screen: Screen) -> None:
    """Accept the unknown host key if it has the fingerprint; on a terminal ask for confirmation instead."""
    key = api.tunnel().host_key
    if key is None:
        raise CommandError("there is no unknown host key to accept; see `bouchet tunnel`")
    if not fingerprint:
        screen.note(f"{key.host} sent this host key:\n  {key.algorithm} {key.fingerprint}")
        if not screen.interactive:
            raise CommandError(
                "compare it with the fingerprint that the site publishes, "
                f"then accept it: `bouchet tunnel --trust {key.fingerprint}`"
            )
        if screen.question("Is it the one that the site publishes? (yes/no) ").strip().lower() != "yes":
            raise CommandError("the key was not accepted; nothing has changed")
        fingerprint = key.fingerprint
    api.trust(fingerprint)
    _wait_for_connection(api)


def _wait_for_connection(api: ApiClient) -> None:
    """Wait until the connection attempt that follows has a result."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while time.monotonic() < deadline and api.tunnel().state in ("refused", "connecting"):
        time.sleep(POLL_INTERVAL_S)


def _log_in(api: ApiClient, tunnel: TunnelInfo, screen: Screen) -> TunnelInfo:
    """Answer prompts until the tunnel is up or refused, or LOGIN_TIMEOUT_S have passed."""
    deadline = time.monotonic() + LOGIN_TIMEOUT_S
    while tunnel.state in CONNECTING and time.monotonic() < deadline:
        if tunnel.prompt:
            answer_prompt(api, tunnel.prompt, screen)
        time.sleep(POLL_INTERVAL_S)
        tunnel = api.tunnel()
    return tunnel
