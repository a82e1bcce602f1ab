"""Progress of a launch, a download or an image build: moving on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.errors import CommandError, NotReadyError
from bouchet_cli.client.http import retry_while_unavailable
from bouchet_cli.client.records import PromptInfo, StepInfo

from .deployments import state_style
from .screen import Screen, StyledLine, clean, join_lines, rich_text, truncate, wrap
from .tables import NOTE_INDENT, duration, start_time
from .tunnel import answer_prompt

if TYPE_CHECKING:
    from rich.status import Status

POLL_INTERVAL_S = 0.5
LINE_INTERVAL_S = 5.0
# a launch that stays in these phases for so long may be waiting for a login prompt
EARLY_PHASES = ("requested", "submitting")
EARLY_S = 3.0
# the spinner and a blank; a line that wraps cannot be redrawn in place
SPINNER_WIDTH = 3
MAX_EXPLANATION_LINES = 3


class WatchedJob(Protocol):
    """What a download and an image job have in common."""

    @property
    def state(self) -> str:
        """queued, running, done, failed or cancelled."""

    @property
    def reason(self) -> str:
        """The current step, or how it ended."""

    @property
    def subject(self) -> str:
        """What it works on."""

    @property
    def steps(self) -> Sequence[StepInfo]:
        """All steps so far."""

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""


AnyJob = TypeVar("AnyJob", bound=WatchedJob)


def announce_nothing(title: str, text: str) -> None:
    """Take no notice of what a person may want to know."""


def wait_until_ready(
    api: ApiClient,
    deployment: DeploymentInfo,
    screen: Screen,
    announce: Callable[[str, str], None] = announce_nothing,
) -> DeploymentInfo:
    """Show the launch until it is ready and return the deployment. Raises CommandError with the reason if it ends.

    announce: called with title and text when it is ready, has ended, or waits for a person.
    """
    with _launch_display(screen) as display:
        while True:
            display.show(deployment)
            if deployment.phase == "ready":
                announce(f"{deployment.alias} is ready", deployment.reason or "Start Claude Code with `bouchet`.")
                return deployment
            if deployment.phase == "ended":
                reason = deployment.reason or "no reason is recorded"
                announce(f"{deployment.alias} {deployment.ending or 'ended'}", reason)
                raise CommandError(f"{deployment.alias} {deployment.ending or 'ended'}: {reason}")
            if deployment.stopping:
                raise NotReadyError(f"{deployment.alias} is being cancelled")
            prompt = _open_prompt(api, deployment, screen)
            if prompt:
                announce(f"{deployment.alias} waits for your login", "Answer the prompt in the terminal.")
                display.pause()
                answer_prompt(api, prompt, screen)
            time.sleep(POLL_INTERVAL_S)
            deployment = retry_while_unavailable(partial(api.deployment, deployment.id))


def wait_until_finished(job: AnyJob, refresh: Callable[[], AnyJob], show: Callable[[AnyJob], None]) -> AnyJob:
    """Show the job until it has ended, and return its last record."""
    while True:
        show(job)
        if job.finished:
            return job
        time.sleep(POLL_INTERVAL_S)
        job = retry_while_unavailable(refresh)


@contextmanager
def job_display(
    screen: Screen,
    line_of: Callable[[AnyJob], str],
    bar_of: Callable[[AnyJob], Mapping[str, Any]],
    *,
    elapsed: bool = False,
) -> Iterator[Callable[[AnyJob], None]]:
    """Yield a function that shows a job's record. bar_of: description, total, completed and counts of the bar."""
    if not screen.err.is_terminal:
        yield JobLines(screen, line_of).show
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # rich loads slowly

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}")]
    more = [TimeElapsedColumn()] if elapsed else []
    with Progress(*columns, *more, console=screen.err.console, transient=True) as progress:
        task, earlier = progress.add_task("", total=None, counts=""), EarlierSteps()

        def show(job: AnyJob) -> None:
            for line in earlier.new(job):
                screen.err.print(StyledLine(line, "dim"))
            progress.update(task, **bar_of(job))

        yield show


class EarlierSteps:
    """The steps of a job that are over, each once: most of them began and ended between two observations."""

    def __init__(self) -> None:
        self._shown: set[StepInfo] = set()

    def new(self, job: WatchedJob) -> list[str]:
        """Return a line for each step that is over and that no call has returned yet, in their order."""
        lines = []
        over = job.steps if job.finished else job.steps[:-1]
        ends = [step.at for step in job.steps[1:]]
        for step, end in zip_longest(over, ends[: len(over)]):
            if step not in self._shown:
                self._shown.add(step)
                took = f" ({duration((end - step.at).total_seconds())})" if end else ""
                lines.append(f"{job.subject}: {clean(step.name)}{took}")
        return lines


class JobLines:
    """Prints a line for every step, every change of state, and every few seconds while a count changes.

    The end is not printed: the command's result or error reports it.
    """

    def __init__(self, screen: Screen, line_of: Callable[[Any], str]) -> None:
        self._screen, self._line_of = screen, line_of
        self._step, self._line, self._printed_at = ("", ""), "", 0.0
        self._earlier = EarlierSteps()

    def show(self, job: WatchedJob) -> None:
        """Print the steps that are over, and the job's line if it has changed."""
        for line in self._earlier.new(job):
            self._screen.note(line)
        if job.finished:
            return
        step, now, line = (job.state, job.reason), time.monotonic(), self._line_of(job)
        if step != self._step or (now - self._printed_at > LINE_INTERVAL_S and line != self._line):
            self._step, self._line, self._printed_at = step, line, now
            self._screen.note(line)


def launch_head(deployment: DeploymentInfo, now: datetime) -> StyledLine:
    """Return phase, time since the launch, Slurm's estimate and resources."""
    line = StyledLine(f"{deployment.alias} ").append(deployment.phase, state_style(deployment))
    line.append(f" {duration((now - deployment.created_at).total_seconds())}")
    if deployment.phase == "queued" and deployment.job.start_estimate:
        line.append(f" (starts {start_time(deployment.job.start_estimate, now)})", "bold")
    if deployment.job.resources:
        line.append(f" on {clean(deployment.job.resources)}", "dim")
    return line


def launch_line(deployment: DeploymentInfo, now: datetime) -> StyledLine:
    """Return the same and the explanation in one line."""
    line = launch_head(deployment, now)
    return line.append(f": {deployment.explanation}") if deployment.explanation else line


def launch_lines(deployment: DeploymentInfo, now: datetime, width: int) -> list[StyledLine]:
    """Return the same in lines of at most `width` columns, the explanation below."""
    explanation = wrap(deployment.explanation, width - len(NOTE_INDENT)) if deployment.explanation else []
    below = [StyledLine(NOTE_INDENT).append(line) for line in explanation[:MAX_EXPLANATION_LINES]]
    return [truncate(launch_head(deployment, now), width), *below]


class _EarlierStartSteps:
    """The steps of a start that are over, each once; a job that Slurm requeued begins again."""

    def __init__(self) -> None:
        self._shown = 0

    def new(self, deployment: DeploymentInfo) -> list[str]:
        """Return a line for each step that is over and that no call has returned yet, in their order."""
        steps = deployment.job.steps
        over = len(steps) if deployment.phase in ("ready", "ended") else max(0, len(steps) - 1)
        first = min(self._shown, over)
        # the list shrinks when the job is requeued
        self._shown = over
        return [f"{deployment.alias}: {clean(name)}" for name in steps[first:over]]


class _LaunchLines:
    """A line for every step and change, without a terminal. The end is not printed: the result or error reports it."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._last = screen, ("", "")
        self._earlier = _EarlierStartSteps()

    def show(self, deployment: DeploymentInfo) -> None:
        """Print the steps that are over, and the line if phase or explanation has changed."""
        for line in self._earlier.new(deployment):
            self._screen.note(line)
        current = (deployment.phase, deployment.explanation)
        if current != self._last and deployment.phase not in ("ready", "ended"):
            self._last = current
            self._screen.note(launch_line(deployment, datetime.now(UTC)).plain)

    def pause(self) -> None:
        """Do nothing: printed lines do not move."""


class _LaunchSpinner:
    """A few lines that are redrawn, below a line for every step that is over."""

    def __init__(self, status: Status, screen: Screen) -> None:
        self._status, self._screen, self._width = status, screen, screen.err.width
        self._earlier = _EarlierStartSteps()

    def show(self, deployment: DeploymentInfo) -> None:
        """Redraw the line, also after a pause."""
        for earlier in self._earlier.new(deployment):
            self._screen.err.print(StyledLine(earlier, "dim"))
        lines = launch_lines(deployment, datetime.now(UTC), self._width - SPINNER_WIDTH)
        self._status.update(rich_text(join_lines(lines)))
        self._status.start()

    def pause(self) -> None:
        """Remove the line while a person types."""
        self._status.stop()


@contextmanager
def _launch_display(screen: Screen) -> Iterator[_LaunchLines | _LaunchSpinner]:
    if not screen.err.is_terminal:
        yield _LaunchLines(screen)
        return
    status = screen.err.console.status("")
    try:
        yield _LaunchSpinner(status, screen)
    finally:
        status.stop()


def _open_prompt(api: ApiClient, deployment: DeploymentInfo, screen: Screen) -> PromptInfo | None:
    """Return the prompt of an SSH login that delays the launch; Duo asks once per connection."""
    waited = (datetime.now(UTC) - deployment.created_at).total_seconds()
    if not screen.interactive or deployment.phase not in EARLY_PHASES or waited < EARLY_S:
        return None
    try:
        return api.tunnel().prompt
    except CommandError:
        return None  # the deployment's own reason names the problem
