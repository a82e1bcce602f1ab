"""`bouchet status`: what runs, why a job waits, when it will start."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.records import Deployment, Json
from bouchet_cli.select import ended_lately
from bouchet_cli.tools import Tools
from bouchet_cli.view.deployment import detail_lines
from bouchet_cli.view.orphans import orphan_hint
from bouchet_cli.view.repro import repro, repro_lines
from bouchet_cli.view.screen import Screen
from bouchet_cli.view.tables import status_lines, tunnel_line, unasked_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet status`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="this one in full, with where its start's time went")
    parser.add_argument("--repro", action="store_true", help="with NAME: all that is needed to run the same again")
    parser.add_argument("--all", action="store_true", help="also what has ended")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Live deployments (all with --all) and the tunnel."""
    api, screen = tools.api, tools.screen
    if options.repro:
        _show_repro(options, api, screen)
        return
    if options.name:
        _show_one(options, api, screen)
        return
    deployments = api.deployments(live=not options.all)
    if options.json:
        screen.show_json(
            {"deployments": [d.raw for d in deployments], "tunnel": _tunnel_json(api), "cluster_outage": api.unasked()}
        )
        return
    now = datetime.now(UTC)
    if deployments:
        ended = [] if options.all else ended_lately(api.deployments(live=False), now)
        screen.show(*status_lines([*deployments, *ended], screen.out.width, now))
    else:
        screen.show("nothing runs; `bouchet launch` starts a model")
        _show_last(api, screen, now)
    _say_unasked(api, screen, now)
    try:
        screen.show(tunnel_line(api.tunnel(), now))
    except CommandError as exc:
        screen.show(f"tunnel: unknown ({exc})")
    _hint_at_orphans(api, screen)


def _hint_at_orphans(api: Api, screen: Screen) -> None:
    try:
        hint = orphan_hint(api.orphans(fresh=False))
    except CommandError:
        return  # what runs is said; this was a word beside it
    if hint:
        screen.show(hint)


def _say_unasked(api: Api, screen: Screen, now: datetime) -> None:
    told = api.unasked()
    if told:
        screen.show(unasked_line(told, now))


def _show_repro(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    if not options.name:
        raise UsageError("--repro wants the name or the id of a deployment; `bouchet status --all` lists them")
    found = repro(api.remembered(options.name))
    if options.json:
        screen.show_json(found)
    else:
        screen.show(*repro_lines(found, datetime.now(UTC)))


def _show_one(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    deployment = api.remembered(options.name)
    if options.json:
        screen.show_json(deployment.raw)
    else:
        now = datetime.now(UTC)
        screen.show(*detail_lines(deployment, screen.out.width, now))
        _say_unasked(api, screen, now)


def _show_last(api: Api, screen: Screen, now: datetime) -> None:
    """Why there is nothing: how the last one ended."""
    last: list[Deployment] = api.deployments(live=False, limit=1)
    if last:
        screen.show("", *status_lines(last, screen.out.width, now))


def _tunnel_json(api: Api) -> Json | None:
    try:
        return api.tunnel().raw
    except CommandError:
        return None
