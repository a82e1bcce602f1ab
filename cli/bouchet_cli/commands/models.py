"""`bouchet models`: what can be served, and what of it lies on the cluster."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.tools import Tools
from bouchet_cli.view.models import Model, in_bytes, models_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(options: argparse.Namespace, tools: Tools) -> None:
    """The catalog."""
    screen = tools.screen
    answer = tools.api.models(look=True)
    if options.json:
        screen.show_json(answer)
        return
    models = [Model.from_json(raw) for raw in answer["models"]]
    screen.show(*models_lines(models, answer["default"], screen.out.width, datetime.now(UTC)))
    if answer.get("free_bytes") is not None:
        screen.show("", f"{in_bytes(answer['free_bytes'])} are free on the models' disk")
    if any(model.state == "unknown" for model in models):
        screen.say("what lies on the cluster is unknown until it can be asked: `bouchet tunnel`")
