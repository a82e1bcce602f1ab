"""`bouchet doctor`: looks at everything between here and the GPUs, and says what to do about what is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext

from bouchet_cli import VERSION
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.settings import PROJECT, env_file
from bouchet_cli.integrations.claude_code import find_claude
from bouchet_cli.local_checks import (
    claude_check,
    door_checks,
    engine_checks,
    secrecy_check,
    secret_files,
    version_check,
)
from bouchet_cli.tools import Tools
from bouchet_cli.view.checks import Check, check_lines, report_json, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet doctor`."""
    parser.add_argument("--local", action="store_true", help="look at this machine alone, not at the cluster")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Shows each check as it comes. CommandError when one failed."""
    screen, checks = tools.screen, []
    for check in _checks(options, tools):
        checks.append(check)
        if not options.json:
            screen.show(*check_lines(check, screen.out.width))
    if options.json:
        screen.show_json(report_json(checks, VERSION))
    else:
        screen.show("", summary(checks))
    failed = [check for check in checks if check.verdict == "fail"]
    if failed:
        names = ", ".join(f"{check.area}: {check.name}" for check in failed)
        raise CommandError(f"{len(failed)} of {len(checks)} checks failed ({names})")


def _checks(options: argparse.Namespace, tools: Tools) -> Iterator[Check]:
    project = tools.environment.get("COMPOSE_PROJECT_NAME") or "bouchet"
    yield from engine_checks(tools.environment, project)
    yield secrecy_check(secret_files(env_file(tools.environment), PROJECT, project))
    yield _claude(tools)
    try:
        doors = list(door_checks(tools.settings))
    except CommandError as exc:
        yield Check("stack", "api", "fail", *_split(exc))
        return
    yield from doors
    if not options.local:
        yield from _beyond(doors[0], tools)


def _beyond(api: Check, tools: Tools) -> Iterator[Check]:
    """What only the api can look at: Redis, worker, SSH, cluster."""
    if api.verdict != "pass":
        yield Check("cluster", "all of it", "unknown", "the api must answer first", api.fix)
        return
    shown = tools.screen.err
    looking = "looking at the cluster (up to a minute)"
    if not shown.is_terminal:
        tools.screen.say(looking)
    with shown.console.status(looking) if shown.is_terminal else nullcontext():
        try:
            report = tools.api.doctor()
        except CommandError as exc:
            yield Check("stack", "api", "fail", *_split(exc))
            return
    yield version_check(VERSION, report["version"])
    yield from (Check.from_json(raw) for raw in report["checks"])


def _claude(tools: Tools) -> Check:
    try:
        find_claude(tools.environment)
    except CommandError:
        return claude_check(found=False)
    return claude_check(found=True)


def _split(exc: CommandError) -> tuple[str, str]:
    """What happened, and what to do."""
    words, _, fix = str(exc).partition("; ")
    return words, fix
