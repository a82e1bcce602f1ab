"""Steps with their elapsed time: one line each when it ends, and while it runs a live line on a terminal.

Several steps may run at once, in threads. On a pipe there is no live line; a step that takes long says so now and then.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

SPINNER = "|/-\\"
TICK_S = 0.2
PULSE_S = 30.0  # a sign of life on a pipe


class Step:
    """One thing being done. Whoever does it may keep `detail` up to date, or change `title` into what came of it."""

    def __init__(self, title: str, started: float) -> None:
        self.title = title
        self.detail = ""
        self.started = started
        self.pulsed = started

    def say(self, detail: str) -> None:
        """Show what is going on now."""
        self.detail = detail


class Progress:
    """Prints steps to `out`. Close it, or use it in a with statement."""

    def __init__(self, out: TextIO, live: bool | None = None) -> None:
        self._out = out
        self._live = out.isatty() if live is None else live
        self._active: list[Step] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._ticker.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the live line."""
        self._ended.set()
        self._ticker.join()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show one step: its line is printed when the block ends, marked if it failed."""
        step = Step(title, time.monotonic())
        with self._lock:
            self._active.append(step)
        mark = "failed"
        try:
            yield step
            mark = "ok"
        finally:
            with self._lock:
                self._active.remove(step)
                self._print(render_line(mark, step.title, time.monotonic() - step.started))

    def note(self, text: str) -> None:
        """Print a line between the steps."""
        with self._lock:
            self._print(text)

    def _print(self, line: str) -> None:
        self._out.write(("\r\x1b[K" if self._live else "") + line + "\n")
        self._out.flush()

    def _tick(self) -> None:
        count = 0
        while not self._ended.wait(TICK_S):
            count += 1
            with self._lock:
                if self._live:
                    self._redraw(count)
                else:
                    self._pulse(time.monotonic())
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _redraw(self, count: int) -> None:
        if not self._active:
            return
        columns = shutil.get_terminal_size().columns
        line = render_live(self._active, SPINNER[count % len(SPINNER)], time.monotonic())
        self._out.write("\r\x1b[K" + line[: columns - 1])
        self._out.flush()

    def _pulse(self, now: float) -> None:
        for step in self._active:
            if now - step.pulsed >= PULSE_S:
                step.pulsed = now
                self._print(render_line("...", _describe(step), now - step.started))


def render_line(mark: str, title: str, elapsed_s: float) -> str:
    """Render `ok      images                12.3 s`."""
    return f"{mark:<7} {title:<56} {elapsed_s:7.1f} s"


def render_live(steps: list[Step], spinner: str, now: float) -> str:
    """Render all running steps on one line."""
    parts = [f"{_describe(step)} {now - step.started:.0f} s" for step in steps]
    return f"{spinner} " + "  |  ".join(parts)


def _describe(step: Step) -> str:
    return f"{step.title}: {step.detail}" if step.detail else step.title
