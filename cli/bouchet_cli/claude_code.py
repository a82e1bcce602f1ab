"""Claude Code on a deployment: its variables, and becoming it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .api import Api
from .claude_env import answer_tokens, claude_environment, scrubbed, window_warning
from .errors import CommandError
from .records import Deployment
from .tools import Tools

PACKAGE = "@anthropic-ai/claude-code"
# where its own installers put it, if the PATH does not lead there
INSTALLED = (".local/bin/claude", ".claude/local/claude")
SECRET = "ANTHROPIC_AUTH_TOKEN"


def start_claude(chosen: Deployment, arguments: Sequence[str], tools: Tools) -> None:
    """Becomes Claude Code. Returns only by raising."""
    program = find_claude(tools.environment)
    ours = variables(chosen, tools.api.deployments(live=True), tools)
    # a settings file with an `env` block outranks the shell, and --settings outranks that; `ps` shows it, so no key
    block = {name: value for name, value in ours.items() if name != SECRET}
    given = [] if "--settings" in arguments else ["--settings", json.dumps({"env": block})]
    tools.screen.say(f"starting Claude Code on {chosen.alias}")
    os.execve(program, ["claude", *given, *arguments], scrubbed(tools.environment, ours))


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
    if warning := window_warning(window, answer_tokens(chosen, window)):
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
