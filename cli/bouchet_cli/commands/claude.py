"""Bare `bouchet`: Claude Code on what runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import NotReadyError
from bouchet_cli.client.records import Deployment
from bouchet_cli.client.submit import submit
from bouchet_cli.integrations.claude_code import start_claude
from bouchet_cli.select import in_words, on_its_way, ready_one
from bouchet_cli.tools import Tools
from bouchet_cli.view.launch_progress import follow
from bouchet_cli.view.screen import Screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has no name, and no options of its own."""


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Starts Claude Code on what runs; waits for what is on its way, offers a launch where nothing is."""
    live = tools.api.deployments(live=True)
    try:
        chosen = ready_one(live, options.model)
    except NotReadyError as exc:
        if not tools.screen.interactive:
            raise
        chosen = _wait_or_launch(options.model, live, exc, tools.api, tools.screen)
    start_claude(chosen, options.claude_arguments, tools)


def _wait_or_launch(
    name: str | None, live: Sequence[Deployment], why: NotReadyError, api: Api, screen: Screen
) -> Deployment:
    coming = on_its_way(live, name)
    if coming is not None:
        screen.say(f"{coming.alias} is {in_words(coming)}; waiting for it (Ctrl-C stops the waiting, not the job)")
        return follow(api, coming, screen)
    model = name or api.models()["default"]
    if model is None or input(f"Nothing runs. Launch {model} now? [y/N] ").strip().lower() not in ("y", "yes"):
        raise why
    return follow(api, submit(api, {"model": model}), screen)
