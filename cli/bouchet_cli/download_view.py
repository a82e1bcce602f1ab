"""Watching a download: a bar of real bytes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from .line import Line, clean
from .models_view import in_bytes
from .records import Download
from .render import duration, table
from .screen import Screen

LINE_EVERY_S = 5.0
STYLES = {"done": "green", "failed": "red", "cancelled": "dim", "queued": "yellow", "running": "cyan"}


def counts(download: Download) -> str:
    """28.0 GiB of 61.0 GiB (45 %), 393 MiB/s, 1m left; empty before anything is known."""
    if download.total_bytes is None:
        return ""
    words = f"{in_bytes(download.bytes)} of {in_bytes(download.total_bytes)} ({download.percent} %)"
    if download.state != "running" or not download.rate:
        return words
    left = f", {duration(download.eta_s)} left" if download.eta_s else ""
    return f"{words}, {in_bytes(download.rate)}/s{left}"


def line_of(download: Download) -> str:
    """State, counts and reason in one line."""
    parts = [counts(download), "" if download.reason == "fetching" else clean(download.reason)]
    return f"{download.model} {download.state}: {'; '.join(part for part in parts if part)}".rstrip(": ")


def downloads_lines(downloads: Sequence[Download], width: int, now: datetime) -> list[Line]:
    """A row and a note for each."""
    rows = [
        (d.model, d.state, counts(d) or "-", f"{duration((now - d.updated_at).total_seconds())} ago") for d in downloads
    ]
    notes = [f"id {d.id}{': ' if d.reason else ''}{d.reason}" for d in downloads]
    styles = [STYLES.get(d.state, "") for d in downloads]
    return table(("MODEL", "STATE", "BYTES", "CHANGED"), rows, width, notes=notes, styles=styles)


@contextmanager
def shown(screen: Screen) -> Iterator[Callable[[Download], None]]:
    """What shows one download after another look."""
    if not screen.err.is_terminal:
        yield _Lines(screen).show
        return
    # rich takes a while to load
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
    with Progress(*columns, console=screen.err.console, transient=True) as progress:
        yield _Bar(progress).show


class _Lines:
    """A line at every change of words, and every few seconds while bytes come."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._words, self._at = screen, ("", ""), 0.0

    def show(self, download: Download) -> None:
        """Says it if it is news."""
        words, now = (download.state, download.reason), time.monotonic()
        if words != self._words or now - self._at > LINE_EVERY_S:
            self._words, self._at = words, now
            self._screen.say(line_of(download))


class _Bar:
    """rich's bar, moved by what the record says."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, counts="")

    def show(self, download: Download) -> None:
        """Moves it."""
        words = counts(download) or clean(download.reason)
        doing = download.state if download.reason == "fetching" else f"{download.state}: {clean(download.reason)}"
        self._progress.update(
            self._task,
            description=f"{download.model} {doing if download.total_bytes else download.state}",
            total=download.total_bytes,
            completed=download.bytes,
            counts=words,
        )
