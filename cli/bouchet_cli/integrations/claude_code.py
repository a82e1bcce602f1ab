"""Start Claude Code on a deployment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
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
    tools_warning,
    window_warning,
    without_tools,
)
from .claude_settings import claude_settings, has_memory_files, latest_session, memory_file, sets_permission_mode

PACKAGE = "@anthropic-ai/claude-code"
# where Claude Code's own installers put it, which may not be on the PATH
INSTALL_PATHS = (".local/bin/claude", ".claude/local/claude")
PRINT_OPTIONS = ("-p", "--print")
SIGNAL_STATUS = 128


def start_claude(chosen: DeploymentInfo, arguments: Sequence[str], context: CommandContext) -> None:
    """Run Claude Code. Returns only by raising: on a terminal SystemExit with its status, else it has replaced us."""
    program = find_claude(context.environment)
    live = context.api.deployments(live=True)
    warnings = claude_warnings(chosen, context)
    for warning in warnings:
        context.screen.warn(warning)
    variables = claude_variables(chosen, live, context)
    served = [chosen, *(one for one in live if one.phase == "ready" and one.id != chosen.id)]
    added = [] if "--settings" in arguments else ["--settings", _settings(variables, served, context)]
    added += without_tools(chosen.broken_tools, arguments)
    argv = ["claude", *added, *arguments]
    environment = replace_foreign(context.environment, variables)
    on_terminal = context.screen.interactive and sys.stdout.isatty() and not set(PRINT_OPTIONS) & set(arguments)
    context.screen.note(f"starting Claude Code on {chosen.alias}")
    if not on_terminal:
        os.execve(program, argv, environment)
    if warnings:
        context.screen.question("Press Enter to start Claude Code, Ctrl-C to stop. ")
    _run_session(program, argv, environment, context)


def _settings(variables: Mapping[str, str], served: Sequence[DeploymentInfo], context: CommandContext) -> str:
    """Return the value of --settings: a file in memory, or JSON without the key on a system that has none."""
    keeps_mode = sets_permission_mode(context.environment, Path.cwd())
    document = claude_settings(variables, served, keeps_mode=keeps_mode, with_key=has_memory_files())
    return memory_file(document) if has_memory_files() else json.dumps(document)


def _run_session(program: Path, argv: list[str], environment: Mapping[str, str], context: CommandContext) -> None:
    """Run a session on the terminal and say how to resume it: Claude Code's own hint would lead to Anthropic."""
    started = time.time()
    status = wait_for_session(os.posix_spawn(program, argv, environment))
    if session := latest_session(context.environment, Path.cwd(), started):
        context.screen.note(f"to go on with this session on a model of the cluster: bouchet -- --resume {session}")
    raise SystemExit(status)


def wait_for_session(pid: int) -> int:
    """Wait for a child that has the terminal; stop when it stops (Ctrl-Z), go on when the shell continues it."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forwarded = {number: signal.signal(number, lambda got, _: os.kill(pid, got)) for number in _FORWARDED}
    try:
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            if os.WIFSIGNALED(status):
                return SIGNAL_STATUS + os.WTERMSIG(status)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
    finally:
        signal.signal(signal.SIGINT, previous)
        for number, handler in forwarded.items():
            signal.signal(number, handler)


_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


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


def claude_warnings(chosen: DeploymentInfo, context: CommandContext) -> list[str]:
    """Return what a person should know before Claude Code's screen hides it."""
    window = context_window(chosen, context.api)
    found = (
        window_warning(window, answer_tokens(chosen, window)),
        name_warning(chosen.alias),
        tools_warning(chosen.broken_tools),
    )
    return [warning for warning in found if warning]


def claude_variables(chosen: DeploymentInfo, live: Sequence[DeploymentInfo], context: CommandContext) -> dict[str, str]:
    """Return Claude Code's environment variables for a deployment."""
    ready = [deployment for deployment in live if deployment.phase == "ready"]
    window = context_window(chosen, context.api)
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
