"""Claude Code on a deployment: its variables, and becoming it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.records import Deployment
from bouchet_cli.tools import Tools

from .claude_env import (
    answer_tokens,
    chat_alone,
    claude_environment,
    name_warning,
    scrubbed,
    settings_block,
    tools_warning,
    window_warning,
)

PACKAGE = "@anthropic-ai/claude-code"
# where its own installers put it, if the PATH does not lead there
INSTALLED = (".local/bin/claude", ".claude/local/claude")
SECRET = "ANTHROPIC_AUTH_TOKEN"


def start_claude(chosen: Deployment, arguments: Sequence[str], tools: Tools) -> None:
    """Becomes Claude Code. Returns only by raising."""
    program = find_claude(tools.environment)
    ours = variables(chosen, tools.api.deployments(live=True), tools)
    given = [] if "--settings" in arguments else ["--settings", _settings(ours)]
    given += chat_alone(chosen.without_tools, arguments)
    tools.screen.say(f"starting Claude Code on {chosen.alias}")
    os.execve(program, ["claude", *given, *arguments], scrubbed(tools.environment, ours))


def _settings(ours: Mapping[str, str]) -> str:
    """What --settings takes: a user's settings file with an `env` block outranks the shell, and this outranks that.

    A file in memory, since `ps` shows arguments and a file on disk would outlive its session; where the system has
    none, text without the key.
    """
    if not hasattr(os, "memfd_create"):
        return json.dumps({"env": settings_block({name: ours[name] for name in ours if name != SECRET})})
    descriptor = os.memfd_create("bouchet-claude-settings", 0)
    os.set_inheritable(descriptor, True)
    with os.fdopen(os.dup(descriptor), "w") as file:
        json.dump({"env": settings_block(ours)}, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return f"/proc/self/fd/{descriptor}"


def find_claude(environment: Mapping[str, str]) -> Path:
    """The program. CommandError says how to get it."""
    found = shutil.which("claude", path=environment.get("PATH"))
    home = Path(environment.get("HOME") or Path.home())
    places = [Path(found)] if found else [home / place for place in INSTALLED]
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise CommandError(
        f"Claude Code is not installed: `npm install -g {PACKAGE}`; for another client there is `bouchet env`"
    )


def variables(chosen: Deployment, live: Sequence[Deployment], tools: Tools) -> dict[str, str]:
    """Claude Code's environment for this deployment; warns of a small window."""
    window = window_of(chosen, tools.api)
    warnings = (
        window_warning(window, answer_tokens(chosen, window)),
        name_warning(chosen.alias),
        tools_warning(chosen.without_tools),
    )
    for warning in warnings:
        if warning:
            tools.screen.warn(warning)
    ready = [d for d in live if d.phase == "ready"]
    return claude_environment(chosen, window, tools.settings.proxy_url, tools.settings.key, ready)


def window_of(chosen: Deployment, api: Api) -> int:
    """The window in tokens as vLLM says; while the record does not have its answer, what it was to be started with."""
    if chosen.job.window:
        return chosen.job.window
    asked = (chosen.raw.get("request") or {}).get("max_len")
    known = {model["id"]: model["window"] for model in api.models()["models"]}
    window = asked or known.get(chosen.model)
    if window is None:
        raise CommandError(f"the window of {chosen.alias} is not known: {chosen.model} left the catalog")
    return int(window)
