"""`bouchet env`: the variables or the configuration with which a client reaches a deployment."""

from __future__ import annotations

import argparse

from bouchet_cli.client.records import Deployment
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.integrations.claude_code import variables, window_of
from bouchet_cli.integrations.claude_env import answer_tokens, foreign_variables, shell_lines
from bouchet_cli.integrations.snippets import CLIENTS, Target, advice, snippet
from bouchet_cli.select import ready_one
from bouchet_cli.tools import Tools

CLAUDE, KEY = "claude", "key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet env`."""
    parser.add_argument("--model", metavar="NAME", help="which deployment (default: the newest)")
    parser.add_argument("--shell", choices=("posix", "fish"), default="posix", help="(default: posix: bash, zsh, dash)")
    parser.add_argument(
        "--for",
        dest="client",
        choices=(CLAUDE, *CLIENTS, KEY),
        default=CLAUDE,
        help="which client: variables to `eval`, or a piece of its configuration; key: the key alone (default: claude)",
    )


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Prints what the client wants to be told."""
    if options.client == KEY:
        _show_key(options, tools)
        return
    live = tools.api.deployments(live=True)
    chosen = ready_one(live, options.model)
    if options.client != CLAUDE:
        _show_piece(options, chosen, tools)
        return
    ours = variables(chosen, live, tools)
    if options.json:
        tools.screen.show_json(ours)
    else:
        # they hold the key: that is what they are for
        print("\n".join(shell_lines(ours, foreign_variables(tools.environment, ours), options.shell)))


def _show_key(options: argparse.Namespace, tools: Tools) -> None:
    if options.json:
        tools.screen.show_json({"key": tools.settings.key})
    else:
        print(tools.settings.key)


def _show_piece(options: argparse.Namespace, chosen: Deployment, tools: Tools) -> None:
    client, target = CLIENTS[options.client], _target(chosen, tools)
    if options.json:
        tools.screen.show_json({"client": options.client, "place": client.place, "text": snippet(client, target)})
        return
    if words := advice(client, target):
        tools.screen.say(words)
    print(snippet(client, target))


def _target(chosen: Deployment, tools: Tools) -> Target:
    window = window_of(chosen, tools.api)
    traits = chosen.raw.get("traits") or {}
    return Target(
        name=chosen.alias,
        url=tools.settings.proxy_url,
        window=window,
        answer=answer_tokens(chosen, window),
        tools=bool(traits.get("tool_parser")),
        vision=bool(traits.get("vision")),
        program=str(PROJECT / "bouchet"),
    )
