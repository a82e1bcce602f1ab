"""`bouchet usage`: who used how much."""

from __future__ import annotations

import argparse
from datetime import datetime

from bouchet_cli.tools import Tools
from bouchet_cli.view.api_keys import usage_lines

BY = ("key", "model", "session", "deployment")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet usage`."""
    parser.add_argument("--by", choices=BY, default="key", help="(default: key)")
    parser.add_argument("--since", default="24h", metavar="SPAN", help="how far back: 15m, 24h, 7d (default: 24h)")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Shows sums, the largest first."""
    screen = tools.screen
    answer = tools.api.usage(options.by, options.since)
    if options.json:
        screen.show_json(answer)
        return
    since = datetime.fromisoformat(answer["since"]).astimezone()
    if not answer["lines"]:
        screen.show(f"nothing was used since {since:%d %b %H:%M}")
        return
    screen.show(*usage_lines(options.by, answer["lines"], screen.out.width))
    screen.say(
        f"since {since:%d %b %H:%M}; TOKENS: computed prompt tokens and output, which is what limits count", "dim"
    )
