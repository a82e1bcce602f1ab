"""`bouchet doctor`: check everything between this machine and the GPUs, and suggest fixes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict

from bouchet_cli import VERSION
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.http import Json
from bouchet_cli.client.settings import PROJECT, env_file
from bouchet_cli.context import CommandContext
from bouchet_cli.integrations.claude_code import find_claude
from bouchet_cli.local_checks import (
    CheckResult,
    claude_check,
    engine_checks,
    secret_files,
    secret_files_check,
    service_checks,
    version_check,
)
from bouchet_cli.view.screen import StyledLine, wrap
from bouchet_cli.view.tables import plural

VERDICT_STYLE: Mapping[str, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "unknown": "magenta"}
VERDICT_WIDTH = 9
INDENT = " " * VERDICT_WIDTH


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet doctor`."""
    parser.add_argument("--local", action="store_true", help="check this machine only, not the cluster")


def run_doctor(options: argparse.Namespace, context: CommandContext) -> None:
    """Print each check as soon as its result is known. Raises CommandError if one failed."""
    screen, results = context.screen, []
    for result in _results(options, context):
        results.append(result)
        if not options.json:
            screen.show(*result_lines(result, screen.out.width))
    if options.json:
        screen.show_json(report_json(results, VERSION))
    else:
        screen.show("", summary(results))
    failed = [result for result in results if result.verdict == "fail"]
    if failed:
        names = ", ".join(f"{result.area}: {result.name}" for result in failed)
        raise CommandError(f"{len(failed)} of {len(results)} checks failed ({names})")


def result_lines(result: CheckResult, width: int) -> Iterator[StyledLine]:
    """Yield the verdict and the message, and below them the fix."""
    first, *more = wrap(f"{result.area}: {result.name}: {result.message}", width - VERDICT_WIDTH) or [""]
    yield StyledLine(f"{result.verdict:<{VERDICT_WIDTH}}", VERDICT_STYLE.get(result.verdict, "")).append(first)
    yield from (StyledLine(INDENT + part) for part in more)
    if result.fix:
        yield from (StyledLine(INDENT + part, "dim") for part in wrap(f"-> {result.fix}", width - VERDICT_WIDTH))


def summary(results: Sequence[CheckResult]) -> str:
    """Return "21 passed, 2 warnings, 1 failed, 3 unknown"; zeros are left out, except for passed."""
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in VERDICT_STYLE}
    texts = {
        "pass": f"{counts['pass']} passed",
        "warn": plural(counts["warn"], "warning"),
        "fail": f"{counts['fail']} failed",
        "unknown": f"{counts['unknown']} unknown",
    }
    return ", ".join(text for verdict, text in texts.items() if counts[verdict] or verdict == "pass")


def report_json(results: Sequence[CheckResult], version: str) -> Json:
    """Return the answer of GET /v1/doctor, with this machine's checks first."""
    return {"version": version, "checks": [asdict(result) for result in results]}


def _results(options: argparse.Namespace, context: CommandContext) -> Iterator[CheckResult]:
    project = context.environment.get("COMPOSE_PROJECT_NAME") or "bouchet"
    yield from engine_checks(context.environment, project)
    yield secret_files_check(secret_files(env_file(context.environment), PROJECT, project))
    yield _claude(context)
    try:
        services = list(service_checks(context.settings))
    except CommandError as exc:
        yield CheckResult("stack", "api", "fail", *_split(exc))
        return
    yield from services
    if not options.local:
        yield from _api_results(services[0], context)


def _api_results(api: CheckResult, context: CommandContext) -> Iterator[CheckResult]:
    """Yield the checks that the API makes: Redis, worker, SSH, cluster."""
    if api.verdict != "pass":
        yield CheckResult("cluster", "all checks", "unknown", "not checked, because the API does not answer", api.fix)
        return
    stderr = context.screen.err
    text = "checking the cluster (up to a minute)"
    if not stderr.is_terminal:
        context.screen.note(text)
    with stderr.console.status(text) if stderr.is_terminal else nullcontext():
        try:
            report = context.api.doctor()
        except CommandError as exc:
            yield CheckResult("stack", "api", "fail", *_split(exc))
            return
    yield version_check(VERSION, report["version"])
    yield from (CheckResult.from_json(raw) for raw in report["checks"])


def _claude(context: CommandContext) -> CheckResult:
    try:
        find_claude(context.environment)
    except CommandError:
        return claude_check(installed=False)
    return claude_check(installed=True)


def _split(exc: CommandError) -> tuple[str, str]:
    """Return what happened, and the fix."""
    message, _, fix = str(exc).partition("; ")
    return message, fix
