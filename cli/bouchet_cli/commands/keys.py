"""`bouchet keys` and `bouchet usage`: API keys for other people, and usage by key, model or session."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.context import CommandContext
from bouchet_cli.view.lists import key_lines, usage_lines

GROUPS = ("key", "model", "session", "deployment")
MAX_LIMIT = 10**9


def add_keys_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `bouchet keys add|list|revoke`; a bare `keys` lists."""
    actions = parser.add_subparsers(dest="action", metavar="add|list|revoke", parser_class=type(parser))
    add = actions.add_parser("add", help="create a key; it is shown only once", allow_abbrev=False)
    add.add_argument("holder", metavar="HOLDER", help="name of the holder: letters, digits, `.`, `-`, `_`")
    add.add_argument("--requests-per-minute", type=_limit, metavar="N", help="rate limit (default: none)")
    add.add_argument("--tokens-per-minute", type=_limit, metavar="N",
                     help="limit of computed prompt tokens and output tokens (default: none)")  # fmt: skip
    add.add_argument("--expires", metavar="SPAN", help="lifetime, such as 12h, 30d, 8w (default: never expires)")
    listed = actions.add_parser("list", help="list all keys, without the secret part", allow_abbrev=False)
    revoke = actions.add_parser("revoke", help="revoke a key, effective at once", allow_abbrev=False)
    revoke.add_argument("holder", metavar="HOLDER", help="name of the holder")
    for action in (add, listed, revoke):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run_keys(options: argparse.Namespace, context: CommandContext) -> None:
    """Add, revoke or list keys."""
    match options.action:
        case "add":
            _add(options, context)
        case "revoke":
            _revoke(options, context)
        case _:
            _list(options, context)


def add_usage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet usage`."""
    parser.add_argument("--by", choices=GROUPS, default="key", help="group by (default: key)")
    parser.add_argument("--since", default="24h", metavar="SPAN", help="time span: 15m, 24h, 7d (default: 24h)")


def run_usage(options: argparse.Namespace, context: CommandContext) -> None:
    """Show usage sums, the largest first."""
    screen = context.screen
    answer = context.api.usage(options.by, options.since)
    if options.json:
        screen.show_json(answer)
        return
    since = datetime.fromisoformat(answer["since"]).astimezone()
    if not answer["lines"]:
        screen.show(f"no usage since {since:%d %b %H:%M}")
        return
    screen.show(*usage_lines(options.by, answer["lines"], screen.out.width))
    screen.note(
        f"since {since:%d %b %H:%M}; TOKENS: computed prompt tokens and output tokens, the sum that limits apply to;"
        " TTFT: time to first token",
        "dim",
    )


def _add(options: argparse.Namespace, context: CommandContext) -> None:
    fields = {
        "name": options.holder,
        "requests_per_minute": options.requests_per_minute,
        "tokens_per_minute": options.tokens_per_minute,
        "expires_in": options.expires,
    }
    created = context.api.add_key({name: value for name, value in fields.items() if value is not None})
    if options.json:
        context.screen.show_json(created)
        return
    url = context.settings.proxy_url
    context.screen.note(f"key for {created['name']}; it is not shown again, and works for the proxy only ({url}):")
    context.screen.show(created["key"])
    context.screen.note(
        "to paste on the other machine with this key for KEY; it must reach the proxy (docs/lab.md):\n"
        f"  export ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=KEY\n"
        f"  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=KEY",
        "dim",
    )


def _revoke(options: argparse.Namespace, context: CommandContext) -> None:
    revoked = context.api.revoke_key(options.holder)
    if options.json:
        context.screen.show_json(revoked)
    else:
        context.screen.show(f"key {revoked['name']} ({revoked['shown']}) revoked")


def _list(options: argparse.Namespace, context: CommandContext) -> None:
    keys = context.api.keys()
    if options.json:
        context.screen.show_json({"keys": keys})
    elif keys:
        context.screen.show(*key_lines(keys, context.screen.out.width, datetime.now(UTC)))
    else:
        context.screen.show("no keys except yours in .env; create one with `bouchet keys add HOLDER`")


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:10]) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_LIMIT:,}")
    return int(text)
