"""`bouchet env` and bare `bouchet`: Claude Code on a deployment."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bouchet_cli.api import Api
from bouchet_cli.choice import in_words, on_its_way, ready_one
from bouchet_cli.claude_env import (
    answer_tokens,
    claude_environment,
    foreign_variables,
    scrubbed,
    shell_lines,
    window_warning,
)
from bouchet_cli.commands.launch import submit
from bouchet_cli.errors import CommandError, NotReadyError
from bouchet_cli.follow import follow
from bouchet_cli.records import Deployment
from bouchet_cli.screen import Screen
from bouchet_cli.settings import Settings

PACKAGE = "@anthropic-ai/claude-code"
# where its own installers put it, if the PATH does not lead there
INSTALLED = (".local/bin/claude", ".claude/local/claude")
SECRET = "ANTHROPIC_AUTH_TOKEN"


def env(options: argparse.Namespace, api: Api, screen: Screen, settings: Settings) -> None:
    """Prints the variables. They hold the key: that is what they are for."""
    live = api.deployments(live=True)
    ours = variables(ready_one(live, options.model), live, api, screen, settings)
    if options.json:
        screen.show_json(ours)
    else:
        print("\n".join(shell_lines(ours, foreign_variables(os.environ, ours), options.shell)))


def connect(options: argparse.Namespace, api: Api, screen: Screen, settings: Settings) -> None:
    """Starts Claude Code on what runs; waits for what is on its way, offers a launch where nothing is."""
    live = api.deployments(live=True)
    try:
        chosen = ready_one(live, options.model)
    except NotReadyError as exc:
        if not screen.interactive:
            raise
        chosen = _wait_or_launch(options.model, live, exc, api, screen)
    start_claude(chosen, options.claude_arguments, api, screen, settings)


def start_claude(chosen: Deployment, arguments: Sequence[str], api: Api, screen: Screen, settings: Settings) -> None:
    """Becomes Claude Code. Returns only by raising."""
    program = find_claude()
    ours = variables(chosen, api.deployments(live=True), api, screen, settings)
    # a settings file with an `env` block outranks the shell, and --settings outranks that; `ps` shows it, so no key
    block = {name: value for name, value in ours.items() if name != SECRET}
    given = [] if "--settings" in arguments else ["--settings", json.dumps({"env": block})]
    screen.say(f"starting Claude Code on {chosen.alias}")
    os.execve(program, ["claude", *given, *arguments], scrubbed(os.environ, ours))


def find_claude() -> Path:
    """The program. CommandError says how to get it."""
    found = shutil.which("claude")
    places = [Path(found)] if found else [Path.home() / place for place in INSTALLED]
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise CommandError(
        f"Claude Code is not installed: `npm install -g {PACKAGE}`; for another client there is `bouchet env`"
    )


def variables(
    chosen: Deployment, live: Sequence[Deployment], api: Api, screen: Screen, settings: Settings
) -> dict[str, str]:
    """Claude Code's environment for this deployment; warns of a small window."""
    window = chosen.job.window or _catalog_window(chosen, api)
    if warning := window_warning(window, answer_tokens(chosen, window)):
        screen.warn(warning)
    ready = [d for d in live if d.phase == "ready"]
    return claude_environment(chosen, window, settings.proxy_url, settings.key, ready)


def _catalog_window(chosen: Deployment, api: Api) -> int:
    """What vLLM was to be started with, while the record does not have its answer."""
    asked = (chosen.raw.get("request") or {}).get("max_len")
    known = {model["id"]: model["window"] for model in api.models()["models"]}
    window = asked or known.get(chosen.model)
    if window is None:
        raise CommandError(f"the window of {chosen.alias} is not known: {chosen.model} left the catalog")
    return int(window)


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
