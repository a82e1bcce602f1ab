"""`bouchet models`: what can be served."""

from __future__ import annotations

import argparse

from bouchet_cli.records import Model
from bouchet_cli.render import models_lines
from bouchet_cli.tools import Tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(options: argparse.Namespace, tools: Tools) -> None:
    """The catalog."""
    screen = tools.screen
    answer = tools.api.models(look=True)
    if options.json:
        screen.show_json(answer)
        return
    screen.show(*models_lines([Model.from_json(raw) for raw in answer["models"]], answer["default"], screen.out.width))
