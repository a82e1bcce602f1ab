"""`bouchet launch`: asks for a deployment and watches it until it answers."""

from __future__ import annotations

import argparse
import uuid
from typing import Any

from bouchet_cli.api import Api
from bouchet_cli.errors import UnreachableError, UsageError
from bouchet_cli.follow import follow
from bouchet_cli.records import Deployment
from bouchet_cli.screen import Screen

# option -> field of the request, where the two are not spelled alike
FIELDS = ("name", "gpus", "nodes", "time", "partition", "quant", "max_len", "account", "qos", "constraint")


def launch(options: argparse.Namespace, api: Api, screen: Screen) -> Deployment:
    """The deployment: ready when it was waited for. Ctrl-C leaves it running."""
    made = submit(api, request_of(options, api))
    waits = options.wait if options.wait is not None else screen.out.is_terminal
    if not (waits or options.claude):
        _show(made, options.json, screen)
        return made
    screen.say(f"{made.alias} requested (id {made.id})")
    try:
        ready = follow(api, made, screen)
    except KeyboardInterrupt:
        screen.say(f"{made.alias} goes on without you; `bouchet status` shows it, `bouchet cancel {made.id}` ends it")
        raise
    _show(ready, options.json, screen)
    return ready


def request_of(options: argparse.Namespace, api: Api) -> dict[str, Any]:
    """The body of POST /v1/deployments; the catalog's default model where none is named."""
    named = {options.positional_model, options.model} - {None}
    if len(named) > 1:
        raise UsageError(f"two models are named: {' and '.join(sorted(named))}")
    model = named.pop() if named else api.models()["default"]
    if model is None:
        raise UsageError("the catalog has no default model; name one (`bouchet models`)")
    request = {"model": model, **{field: getattr(options, field) for field in FIELDS}}
    request["serve_as"] = list(options.serve_as) or None
    request["idle_timeout_min"] = options.idle_timeout
    return {field: value for field, value in request.items() if value is not None}


def submit(api: Api, request: dict[str, Any]) -> Deployment:
    """Asks once more where the answer was lost: with the same key that makes no second deployment."""
    key = uuid.uuid4().hex
    try:
        return api.launch(request, key)
    except UnreachableError as exc:
        if exc.kind:
            raise
        return api.launch(request, key)


def _show(deployment: Deployment, as_json: bool, screen: Screen) -> None:
    if as_json:
        screen.show_json(deployment.raw)
    elif deployment.phase == "ready":
        screen.show(f"{deployment.alias} is ready; `bouchet` starts Claude Code on it, `bouchet chat` talks with it")
    else:
        screen.show(f"{deployment.alias} requested (id {deployment.id}); `bouchet status` shows how it goes")
