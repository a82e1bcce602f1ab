"""A bare `bouchet`, which starts Claude Code, and `bouchet env`, which prints the settings of other clients."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bouchet_cli.client.deployments import DeploymentInfo, pending_deployment, phase_text, ready_deployment
from bouchet_cli.client.errors import NotReadyError, UsageError
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.context import CommandContext
from bouchet_cli.integrations.claude_code import claude_variables, claude_warnings, context_window, start_claude
from bouchet_cli.integrations.claude_env import answer_tokens, foreign_variables, shell_lines
from bouchet_cli.integrations.snippets import CLIENTS, SnippetValues, placement_note, snippet
from bouchet_cli.view.progress import wait_until_ready

CLAUDE, KEY = "claude", "key"


def add_claude_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options: a bare `bouchet` has only those of the main parser."""


def run_claude(options: argparse.Namespace, context: CommandContext) -> None:
    """Start Claude Code; wait for a model that is starting, offer a launch if there is none."""
    live = context.api.deployments(live=True)
    try:
        chosen = _choose(live, options.model, context)
    except NotReadyError as exc:
        if not context.screen.interactive:
            raise
        chosen = _wait_or_launch(options.model, live, exc, context)
    start_claude(chosen, options.claude_arguments, context)


def _choose(live: Sequence[DeploymentInfo], name: str | None, context: CommandContext) -> DeploymentInfo:
    """Return the deployment to use; ask on a terminal if several are ready and none is named. Raises NotReadyError."""
    newest = ready_deployment(live, name, wakes=True)
    if newest.wakes:
        context.screen.note(f"{newest.alias} is parked: the first request starts it, which takes some minutes")
    ready = {one.alias: one for one in reversed(live) if one.phase == "ready" and not one.stopping}
    if name is not None or len(ready) < 2 or not context.screen.interactive:
        return newest
    choices = [newest, *(one for alias, one in ready.items() if alias != newest.alias)]
    for number, one in enumerate(choices, 1):
        context.screen.note(f"{number}  {one.alias}  ({one.model})")
    while True:
        typed = context.screen.question(f"Which model? [1-{len(choices)}, Enter for 1] ").strip() or "1"
        if typed.isascii() and typed.isdigit() and 1 <= int(typed) <= len(choices):
            return choices[int(typed) - 1]


def add_env_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet env`."""
    parser.add_argument("--model", metavar="NAME", help="deployment to use (default: the newest ready one)")
    parser.add_argument("--shell", choices=("posix", "fish"), default="posix",
                        help="syntax of the variables (default: posix, for bash, zsh and dash)")  # fmt: skip
    parser.add_argument("--for", dest="client", choices=(CLAUDE, *CLIENTS, KEY), default=CLAUDE,
                        help="client: prints variables for `eval` or configuration; key: only the API key "
                        "(default: claude)")  # fmt: skip


def run_env(options: argparse.Namespace, context: CommandContext) -> None:
    """Print the variables or the configuration of a client."""
    if options.shell == "fish" and options.client != CLAUDE:
        raise UsageError(f"--shell fish is for Claude Code's variables; lines for {options.client} are POSIX: use bash")
    if options.client == KEY:
        _show_key(options, context)
        return
    live = context.api.deployments(live=True)
    chosen = ready_deployment(live, options.model, wakes=True)
    if options.client != CLAUDE:
        _show_snippet(options, chosen, context)
        return
    for warning in claude_warnings(chosen, context):
        context.screen.warn(warning)
    variables = claude_variables(chosen, live, context)
    if options.json:
        context.screen.show_json(variables)
    else:
        # print, because the values are for a shell: they include the key, and must not be styled
        foreign = foreign_variables(context.environment, variables)
        print("\n".join(shell_lines(variables, foreign, options.shell)))


def _wait_or_launch(
    name: str | None, live: Sequence[DeploymentInfo], error: NotReadyError, context: CommandContext
) -> DeploymentInfo:
    api, screen = context.api, context.screen
    pending = pending_deployment(live, name)
    if pending is not None:
        screen.note(f"{pending.alias} is {phase_text(pending)}; waiting for it (Ctrl-C stops waiting, not the job)")
        return wait_until_ready(api, pending, screen)
    model = name or api.models()["default"]
    if model is None or not _confirmed(f"No deployment is running. Launch {model} now? [y/N] "):
        raise error
    return wait_until_ready(api, api.launch({"model": model}), screen)


def _confirmed(question: str) -> bool:
    return input(question).strip().lower() in ("y", "yes")


def _show_key(options: argparse.Namespace, context: CommandContext) -> None:
    if options.json:
        context.screen.show_json({"key": context.settings.key})
    else:
        print(context.settings.key)


def _show_snippet(options: argparse.Namespace, chosen: DeploymentInfo, context: CommandContext) -> None:
    client, values = CLIENTS[options.client], _snippet_values(chosen, context)
    text = snippet(client, values)
    if options.json:
        context.screen.show_json({"client": options.client, "place": client.file, "text": text})
        return
    if note := placement_note(client, values):
        context.screen.note(note)
    print(text)


def _snippet_values(chosen: DeploymentInfo, context: CommandContext) -> SnippetValues:
    window = context_window(chosen, context.api)
    traits = chosen.raw.get("traits") or {}
    return SnippetValues(
        model=chosen.alias,
        url=context.settings.proxy_url,
        window=window,
        max_answer=answer_tokens(chosen, window),
        tools=bool(traits.get("tool_parser")),
        vision=bool(traits.get("vision")),
        program=str(PROJECT / "bouchet"),
    )
