"""`bouchet cancel`: ends deployments."""

from __future__ import annotations

import argparse

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import NotReadyError, UsageError
from bouchet_cli.tools import Tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet cancel`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="id or name; may be left out when only one runs")
    parser.add_argument("--all", action="store_true", help="end everything that runs")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Ends what is named, or the only one there is."""
    api, screen = tools.api, tools.screen
    ended = [api.cancel(name) for name in _to_cancel(options, api)]
    if options.json:
        screen.show_json({"deployments": [d.raw for d in ended]})
        return
    for deployment in ended:
        over = deployment.phase == "ended"
        screen.show(f"{deployment.alias} ({deployment.id}) {'had ended already' if over else 'is being ended'}")


def _to_cancel(options: argparse.Namespace, api: Api) -> list[str]:
    if options.names and options.all:
        raise UsageError("name deployments or say --all, not both")
    if options.names:
        return list(dict.fromkeys(options.names))
    live = api.deployments(live=True)
    if not live:
        raise NotReadyError("nothing runs, so there is nothing to cancel")
    if len(live) > 1 and not options.all:
        raise UsageError(f"several run; name one or say --all: {', '.join(d.alias for d in live)}")
    return [d.id for d in live]
