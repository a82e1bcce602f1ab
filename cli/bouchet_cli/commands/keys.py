"""`bouchet keys` and `bouchet usage`: API keys for other people, and what they used, by the ledger or of late."""

from __future__ import annotations

import argparse
import shlex
from datetime import UTC, datetime

from bouchet_cli.client.errors import UsageError
from bouchet_cli.context import CommandContext
from bouchet_cli.view.ledger import accounting_line, csv_text, gpu_lines, total_line
from bouchet_cli.view.lists import key_lines, usage_lines

from .keep import local_time_zone

GROUPS = ("key", "model", "session", "deployment")
LEGEND = "TOKENS: computed prompt tokens and output tokens, the sum that limits apply to; TTFT: time to first token"
MAX_LIMIT = 10**9
# what a person writes -> what the ledger calls it, for requests; of GPU hours the second, where it differs
VIEWS = {
    "people": "key",
    "models": "model",
    "days": "day",
    "weeks": "week",
    "months": "month",
    "agents": "agent",
    "classes": "class",
    "clients": "client",
    "deployments": "deployment",
}
GPU_VIEWS = {
    "models": "model",
    "days": "day",
    "weeks": "week",
    "months": "month",
    "deployments": "deployment",
    "types": "gpu_type",
    "partitions": "partition",
    "accounts": "account",
    "jobs": "job",
}


def add_keys_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `bouchet keys add|list|revoke`; a bare `keys` lists."""
    actions = parser.add_subparsers(dest="action", metavar="add|list|revoke", parser_class=type(parser))
    add = actions.add_parser("add", help="create a key; it is shown only once", allow_abbrev=False)
    add.add_argument("holder", metavar="HOLDER", help="name of the holder: small letters, digits, `.`, `-`, `_`")
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
    views = list(dict.fromkeys((*VIEWS, *GPU_VIEWS)))
    parser.add_argument("view", nargs="?", choices=views, metavar="VIEW",
                        help=f"whole days from the ledger, by {', '.join(views)}; without: the last hours")  # fmt: skip
    parser.add_argument("--gpu", action="store_true", help="GPU hours and charge instead of requests")
    parser.add_argument("--month", metavar="YYYY-MM", help="a month (default: the last 30 days)")
    parser.add_argument("--from", dest="first", metavar="DATE", help="first day, such as 2026-11-01")
    parser.add_argument("--to", dest="last", metavar="DATE", help="last day, included")
    parser.add_argument("--zone", metavar="ZONE", help="time zone whose days count (default: this computer's)")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--by", choices=GROUPS, help="without VIEW: group by (default: key)")
    parser.add_argument("--since", metavar="SPAN", help="without VIEW: time span: 15m, 24h, 7d (default: 24h)")


def run_usage(options: argparse.Namespace, context: CommandContext) -> None:
    """Show usage sums: of whole days from the ledger, or of the last hours."""
    of_days = (options.gpu, options.month, options.first, options.last, options.zone, options.csv)
    if options.view is None and not any(of_days):
        _show_last_hours(options, context)
    elif options.by or options.since:
        raise UsageError("--by and --since are for the last hours; with days of the ledger write VIEW and --month")
    else:
        _show_days(options, context)


def _show_last_hours(options: argparse.Namespace, context: CommandContext) -> None:
    screen, by = context.screen, options.by or GROUPS[0]
    answer = context.api.usage(by, options.since or "24h")
    if options.json:
        screen.show_json(answer)
        return
    since = datetime.fromisoformat(answer["since"]).astimezone()
    if not answer["lines"]:
        screen.show(f"no usage since {since:%d %b %H:%M}")
        return
    screen.show(*usage_lines(by, answer["lines"], screen.out.width))
    screen.note(f"since {since:%d %b %H:%M}; {LEGEND}", "dim")


def _show_days(options: argparse.Namespace, context: CommandContext) -> None:
    views = GPU_VIEWS if options.gpu else VIEWS
    view = options.view or ("models" if options.gpu else "people")
    if view not in views:
        raise UsageError(f"there is no `{view}` {'with' if options.gpu else 'without'} --gpu; {', '.join(views)} are")
    query = {
        "by": views[view],
        "from": options.first,
        "to": options.last,
        "month": options.month,
        "zone": options.zone or local_time_zone(),
    }
    answer = context.api.ledger(query, gpu=options.gpu)
    screen = context.screen
    if options.json:
        screen.show_json(answer)
        return
    if options.csv:
        screen.show_text(csv_text(answer["lines"]))
        return
    days = f"{answer['first']} to {answer['last']}, days of {answer['zone']}"
    if not answer["lines"]:
        screen.show(f"no usage from {days}")
        return
    if options.gpu:
        screen.show(*gpu_lines(views[view], answer["lines"], screen.out.width), total_line(answer["total"]))
        screen.note(f"{days}; {accounting_line(answer['accounting'])}", "dim")
    else:
        screen.show(*usage_lines(views[view], answer["lines"], screen.out.width))
        screen.note(f"{days}; {LEGEND}", "dim")


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
    screen, url = context.screen, context.settings.proxy_url
    screen.note(f"key for {created['name']}; it is not shown again, and works for the proxy only ({url}):")
    screen.show(created["key"])
    # where the key goes into a file or a pipe, it is not on the screen either
    is_seen = screen.out.is_tty and screen.err.is_tty
    filled = "to paste on the other machine" if is_seen else "to paste on the other machine, with this key for KEY"
    screen.note(f"{filled}; it must reach the proxy (docs/lab.md), and in tcsh it is `setenv NAME VALUE`:", "dim")
    # never wrapped: a line that was pasted in two parts would set half of it
    for line in lines_to_paste(url, created["key"] if is_seen else "KEY"):
        screen.err.print(line)


def lines_to_paste(url: str, key: str) -> list[str]:
    """Return what sets the address and the key for most clients, one variable a line; bash, zsh and fish take it."""
    base = url.rstrip("/")
    values = {
        "ANTHROPIC_BASE_URL": base,
        "ANTHROPIC_AUTH_TOKEN": key,
        "OPENAI_BASE_URL": f"{base}/v1",
        "OPENAI_API_KEY": key,
    }
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


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
