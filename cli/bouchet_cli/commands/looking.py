"""`bouchet status`, `models` and `cancel`: what there is, and an end to it."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.api import Api
from bouchet_cli.errors import CommandError, NotReadyError, UsageError
from bouchet_cli.records import Deployment, Json, Model
from bouchet_cli.render import models_lines, status_lines, tunnel_line
from bouchet_cli.screen import Screen


def status(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    """Live deployments (all with --all) and the tunnel."""
    deployments = api.deployments(live=not options.all)
    if options.json:
        screen.show_json({"deployments": [d.raw for d in deployments], "tunnel": _tunnel_json(api)})
        return
    now = datetime.now(UTC)
    if deployments:
        screen.show(*status_lines(deployments, screen.out.width, now))
    else:
        screen.show("nothing runs; `bouchet launch` starts a model")
        _show_last(api, screen, now)
    try:
        screen.show(tunnel_line(api.tunnel(), now))
    except CommandError as exc:
        screen.show(f"tunnel: unknown ({exc})")


def models(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    """The catalog."""
    answer = api.models()
    if options.json:
        screen.show_json(answer)
        return
    screen.show(*models_lines([Model.from_json(raw) for raw in answer["models"]], answer["default"], screen.out.width))


def cancel(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    """Ends what is named, or the only one there is."""
    ended = [api.cancel(name) for name in _to_cancel(options, api)]
    if options.json:
        screen.show_json([d.raw for d in ended])
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
