"""Watching what the worker does for a while (a download, an image build): a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from bouchet_cli.client.retry import patiently

from .screen import Screen

POLL_S = 0.5
LINE_EVERY_S = 5.0


class Watched(Protocol):
    """The record of one."""

    @property
    def state(self) -> str:
        """A word."""

    @property
    def reason(self) -> str:
        """A sentence."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""


AnyWatched = TypeVar("AnyWatched", bound=Watched)


def until_over(record: AnyWatched, again: Callable[[], AnyWatched], show: Callable[[AnyWatched], None]) -> AnyWatched:
    """The record when it is over, shown after each look."""
    while True:
        show(record)
        if record.over:
            return record
        time.sleep(POLL_S)
        record = patiently(again)


@contextmanager
def shown(
    screen: Screen,
    summary_of: Callable[[AnyWatched], str],
    bar_of: Callable[[AnyWatched], Mapping[str, Any]],
    *,
    elapsed: bool = False,
) -> Iterator[Callable[[AnyWatched], None]]:
    """What shows one look after another. bar_of: description, total, completed and counts; elapsed: with the time."""
    if not screen.err.is_terminal:
        yield Lines(screen, summary_of).show
        return
    # rich takes a while to load
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}")]
    more = [TimeElapsedColumn()] if elapsed else []
    with Progress(*columns, *more, console=screen.err.console, transient=True) as progress:
        task = progress.add_task("", total=None, counts="")
        yield lambda record: progress.update(task, **bar_of(record))


class Lines:
    """A line at every change of words, and every few seconds while something is counted."""

    def __init__(self, screen: Screen, summary_of: Callable[[Any], str]) -> None:
        self._screen, self._line_of = screen, summary_of
        self._words, self._line, self._at = ("", ""), "", 0.0

    def show(self, record: Watched) -> None:
        """Says it if it is news."""
        words, now, line = (record.state, record.reason), time.monotonic(), self._line_of(record)
        if words != self._words or (now - self._at > LINE_EVERY_S and line != self._line):
            self._words, self._line, self._at = words, line, now
            self._screen.say(line)
