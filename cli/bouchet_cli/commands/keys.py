"""`bouchet keys`: keys with which others may use the models, not this stack's API."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.tools import Tools
from bouchet_cli.view.api_keys import key_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`bouchet keys add|list|revoke`; list is what a bare `keys` does."""
    actions = parser.add_subparsers(dest="action", metavar="add|list|revoke", parser_class=type(parser))
    add = actions.add_parser("add", help="make a key; it is shown once", allow_abbrev=False)
    add.add_argument("holder", metavar="HOLDER", help="whose key: letters, digits, `.`, `-`, `_`")
    add.add_argument("--requests-per-minute", type=_number, metavar="N", help="(default: no limit)")
    add.add_argument("--tokens-per-minute", type=_number, metavar="N", help="computed prompt tokens and output")
    add.add_argument("--expires", metavar="SPAN", help="such as 12h, 30d, 8w (default: never)")
    listed = actions.add_parser("list", help="all keys, without the keys themselves", allow_abbrev=False)
    revoke = actions.add_parser("revoke", help="make a key worthless at once", allow_abbrev=False)
    revoke.add_argument("holder", metavar="HOLDER", help="whose key")
    for action in (add, listed, revoke):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for programs")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Does what the action says."""
    match options.action:
        case "add":
            _add(options, tools)
        case "revoke":
            _revoke(options, tools)
        case _:
            _list(options, tools)


def _add(options: argparse.Namespace, tools: Tools) -> None:
    asked = {
        "name": options.holder,
        "requests_per_minute": options.requests_per_minute,
        "tokens_per_minute": options.tokens_per_minute,
        "expires_in": options.expires,
    }
    made = tools.api.add_key({name: value for name, value in asked.items() if value is not None})
    if options.json:
        tools.screen.show_json(made)
        return
    tools.screen.say(
        f"the key of {made['name']}; it cannot be shown again, and opens {tools.settings.proxy_url} alone:"
    )
    tools.screen.show(made["key"])


def _revoke(options: argparse.Namespace, tools: Tools) -> None:
    gone = tools.api.revoke_key(options.holder)
    if options.json:
        tools.screen.show_json(gone)
    else:
        tools.screen.show(f"the key of {gone['name']} ({gone['shown']}) opens nothing any more")


def _list(options: argparse.Namespace, tools: Tools) -> None:
    keys = tools.api.keys()
    if options.json:
        tools.screen.show_json({"keys": keys})
    elif keys:
        tools.screen.show(*key_lines(keys, tools.screen.out.width, datetime.now(UTC)))
    else:
        tools.screen.show("no keys but yours in .env; `bouchet keys add HOLDER` makes one")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:10]) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 to 1,000,000,000")
    return int(text)
