"""Watching a deployment until it is ready or has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.text import Text

from .api import Api
from .errors import CommandError, NotReadyError, UnreachableError
from .prompts import answer_prompt
from .records import Deployment
from .render import PHASE_STYLE, clean, duration, starts
from .screen import Screen

POLL_S = 1.0
# the API may be away for so long (a restart) before watching gives up
PATIENCE_S = 60.0
# a launch that moves no further than this within so long may wait for a person at the tunnel
EARLY_PHASES = ("requested", "submitting")
EARLY_S = 3.0

Show = Callable[[Deployment], None]


def follow(api: Api, deployment: Deployment, screen: Screen) -> Deployment:
    """The deployment when it is ready. Raises CommandError with its reason when it ended instead."""
    with _shown(screen) as show:
        while True:
            show(deployment)
            if deployment.phase == "ready":
                return deployment
            if deployment.phase == "ended":
                raise CommandError(
                    f"{deployment.alias} {deployment.ending or 'ended'}: {deployment.reason or 'no reason'}"
                )
            if deployment.stopping:
                raise NotReadyError(f"{deployment.alias} is being cancelled")
            _look_at_tunnel(api, deployment, screen)
            time.sleep(POLL_S)
            deployment = _again(api, deployment.id)


def progress_line(deployment: Deployment, now: datetime) -> Text:
    """Phase, time since the launch, reason and estimate in one line."""
    age = duration((now - deployment.created_at).total_seconds())
    line = Text(deployment.alias).append(" ")
    line.append(deployment.phase, PHASE_STYLE.get(deployment.phase, "")).append(f" {age}")
    if deployment.job.where:
        line.append(f" on {clean(deployment.job.where)}", "dim")
    if deployment.words:
        line.append(f": {clean(deployment.words)}")
    if deployment.phase == "queued" and deployment.job.start_estimate:
        line.append(f" (starts {starts(deployment.job.start_estimate, now)})", "bold")
    return line


@contextmanager
def _shown(screen: Screen) -> Iterator[Show]:
    """One line that changes on a terminal; elsewhere a line for every change."""
    if not screen.err.is_terminal:
        yield _lines(screen)
        return
    with screen.err.status("") as status:
        yield lambda deployment: status.update(progress_line(deployment, datetime.now(UTC)))


def _lines(screen: Screen) -> Show:
    last: list[tuple[str, str]] = []

    def show(deployment: Deployment) -> None:
        now = (deployment.phase, deployment.words)
        if last != [now]:
            last[:] = [now]
            screen.say(progress_line(deployment, datetime.now(UTC)).plain)

    return show


def _again(api: Api, identity: str) -> Deployment:
    """The record now; an API that restarts is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return api.deployment(identity)
        except CommandError as exc:
            passing = isinstance(exc, UnreachableError) or exc.kind == "store_unavailable"
            if not passing or exc.kind == "unauthorized" or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _look_at_tunnel(api: Api, deployment: Deployment, screen: Screen) -> None:
    """A launch may wait for the person who watches it: Duo asks once per connection."""
    waited = (datetime.now(UTC) - deployment.created_at).total_seconds()
    if not screen.interactive or deployment.phase not in EARLY_PHASES or waited < EARLY_S:
        return
    try:
        tunnel = api.tunnel()
    except CommandError:
        return  # the deployment's own reason tells what is wrong
    if tunnel.prompt:
        answer_prompt(api, tunnel.prompt, screen)
