"""Watching a deployment until it is ready or has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, NotReadyError
from bouchet_cli.client.records import Deployment, Prompt
from bouchet_cli.client.retry import patiently

from .line import Line, clean, cut
from .prompts import answer_prompt
from .screen import Screen, styled
from .tables import PHASE_STYLE, duration, starts

if TYPE_CHECKING:
    from rich.status import Status

POLL_S = 0.5
# a launch that moves no further than this within so long may wait for a person at the tunnel
EARLY_PHASES = ("requested", "submitting")
EARLY_S = 3.0
# what turns, and a blank; a line that wrapped could not be redrawn in its place
SPINNER_WIDTH = 3


def follow(api: Api, deployment: Deployment, screen: Screen) -> Deployment:
    """The deployment when it is ready. Raises CommandError with its reason when it ended instead."""
    with _shown(screen) as display:
        while True:
            display.show(deployment)
            if deployment.phase == "ready":
                return deployment
            if deployment.phase == "ended":
                raise CommandError(
                    f"{deployment.alias} {deployment.ending or 'ended'}: {deployment.reason or 'no reason'}"
                )
            if deployment.stopping:
                raise NotReadyError(f"{deployment.alias} is being cancelled")
            prompt = _prompt_that_waits(api, deployment, screen)
            if prompt:
                display.pause()
                answer_prompt(api, prompt, screen)
            time.sleep(POLL_S)
            deployment = patiently(partial(api.deployment, deployment.id))


def progress_line(deployment: Deployment, now: datetime) -> Line:
    """Phase, time since the launch, reason and estimate in one line."""
    age = duration((now - deployment.created_at).total_seconds())
    line = Line(f"{deployment.alias} ")
    line.append(deployment.phase, PHASE_STYLE.get(deployment.phase, "")).append(f" {age}")
    if deployment.job.where:
        line.append(f" on {clean(deployment.job.where)}", "dim")
    if deployment.words:
        line.append(f": {clean(deployment.words)}")
    if deployment.phase == "queued" and deployment.job.start_estimate:
        line.append(f" (starts {starts(deployment.job.start_estimate, now)})", "bold")
    return line


class _Lines:
    """A line for every change, where there is no terminal."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._last = screen, ("", "")

    def show(self, deployment: Deployment) -> None:
        """Says it if it is news."""
        news = (deployment.phase, deployment.words)
        if news != self._last:
            self._last = news
            self._screen.say(progress_line(deployment, datetime.now(UTC)).plain)

    def pause(self) -> None:
        """Nothing moves here."""


class _Spinner:
    """One line that changes. Paused while a person types."""

    def __init__(self, status: Status, width: int) -> None:
        self._status, self._width = status, width

    def show(self, deployment: Deployment) -> None:
        """Changes the line; goes on after a pause."""
        line = progress_line(deployment, datetime.now(UTC))
        self._status.update(styled(cut(line, self._width - SPINNER_WIDTH)))
        self._status.start()

    def pause(self) -> None:
        """Takes the line away."""
        self._status.stop()


@contextmanager
def _shown(screen: Screen) -> Iterator[_Lines | _Spinner]:
    if not screen.err.is_terminal:
        yield _Lines(screen)
        return
    status = screen.err.console.status("")
    try:
        yield _Spinner(status, screen.err.width)
    finally:
        status.stop()


def _prompt_that_waits(api: Api, deployment: Deployment, screen: Screen) -> Prompt | None:
    """A launch may wait for the person who watches it: Duo asks once per connection."""
    waited = (datetime.now(UTC) - deployment.created_at).total_seconds()
    if not screen.interactive or deployment.phase not in EARLY_PHASES or waited < EARLY_S:
        return None
    try:
        return api.tunnel().prompt
    except CommandError:
        return None  # the deployment's own reason tells what is wrong
