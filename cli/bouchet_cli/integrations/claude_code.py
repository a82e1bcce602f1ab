"""Start Claude Code on a deployment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.errors import CommandError
from bouchet_cli.context import CommandContext

from .claude_env import (
    answer_tokens,
    claude_environment,
    name_warning,
    replace_foreign,
    settings_block,
    tools_warning,
    window_warning,
    without_tools,
)

PACKAGE = "@anthropic-ai/claude-code"
# where Claude Code's own installers put it, which may not be on the PATH
INSTALL_PATHS = (".local/bin/claude", ".claude/local/claude")
SECRET = "ANTHROPIC_AUTH_TOKEN"


def start_claude(chosen: DeploymentInfo, arguments: Sequence[str], context: CommandContext) -> None:
    """Replace this process by Claude Code. Returns only by raising."""
    program = find_claude(context.environment)
    variables = claude_variables(chosen, context.api.deployments(live=True), context)
    added = [] if "--settings" in arguments else ["--settings", _settings(variables)]
    added += without_tools(chosen.broken_tools, arguments)
    context.screen.note(f"starting Claude Code on {chosen.alias}")
    os.execve(program, ["claude", *added, *arguments], replace_foreign(context.environment, variables))


def find_claude(environment: Mapping[str, str]) -> Path:
    """Return the path of Claude Code. Raises CommandError, which explains how to install it."""
    found = shutil.which("claude", path=environment.get("PATH"))
    home = Path(environment.get("HOME") or Path.home())
    paths = [Path(found)] if found else [home / path for path in INSTALL_PATHS]
    for path in paths:
        if os.access(path, os.X_OK):
            return path
    raise CommandError(
        f"Claude Code is not installed; run `npm install -g {PACKAGE}`, or use another client with `bouchet env`"
    )


def claude_variables(chosen: DeploymentInfo, live: Sequence[DeploymentInfo], context: CommandContext) -> dict[str, str]:
    """Return Claude Code's environment variables for a deployment, and print warnings about it."""
    window = context_window(chosen, context.api)
    warnings = (
        window_warning(window, answer_tokens(chosen, window)),
        name_warning(chosen.alias),
        tools_warning(chosen.broken_tools),
    )
    for warning in warnings:
        if warning:
            context.screen.warn(warning)
    ready = [deployment for deployment in live if deployment.phase == "ready"]
    return claude_environment(chosen, window, context.settings.proxy_url, context.settings.key, ready)


def context_window(chosen: DeploymentInfo, api: ApiClient) -> int:
    """Return the window in tokens as vLLM reports it; before that, the one that was requested."""
    if chosen.job.window:
        return chosen.job.window
    requested = (chosen.raw.get("request") or {}).get("max_len")
    catalog = {model["id"]: model["window"] for model in api.models()["models"]}
    window = requested or catalog.get(chosen.model)
    if window is None:
        raise CommandError(f"the context window of {chosen.alias} is unknown: {chosen.model} is not in the catalog")
    return int(window)


def _settings(variables: Mapping[str, str]) -> str:
    """Return the value of --settings, whose `env` block takes precedence over the user's own settings files.

    It is a file in memory, because `ps` shows arguments and a file on disk would remain after the session. On a system
    without such files it is JSON without the key.
    """
    if not hasattr(os, "memfd_create"):
        return json.dumps({"env": settings_block({name: variables[name] for name in variables if name != SECRET})})
    descriptor = os.memfd_create("bouchet-claude-settings", 0)
    os.set_inheritable(descriptor, True)
    with os.fdopen(os.dup(descriptor), "w") as file:
        json.dump({"env": settings_block(variables)}, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return f"/proc/self/fd/{descriptor}"
