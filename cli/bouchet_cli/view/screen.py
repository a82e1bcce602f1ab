"""Where output goes: results to stdout, everything about them to stderr, so that results can be piped.

rich draws what has styles or moves; a pipe gets plain text, for which rich is not even loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from .line import Line, clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# narrower than this and tables say nothing; a terminal that is, wraps
NARROWEST = 40
COLUMNS = 80


class Side:
    """stdout or stderr."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self.is_tty = stream.isatty()
        # a terminal on which lines can be redrawn
        self.is_terminal = self.is_tty and environment.get("TERM") not in ("dumb", "unknown")
        self._styled = self.is_terminal and not environment.get("NO_COLOR")
        self._columns = environment.get("COLUMNS", "")

    @property
    def width(self) -> int:
        """Columns: COLUMNS, else the terminal's, else 80."""
        asked = int(self._columns) if self._columns.isdecimal() else 0
        return max(NARROWEST, asked or _columns_of(self._stream) or COLUMNS)

    @cached_property
    def console(self) -> Console:
        """rich's console on this side: for what moves, such as a progress bar. Ask is_terminal first."""
        from rich.console import Console

        return Console(file=self._stream, width=self.width, highlight=False, markup=False, emoji=False)

    def print(self, text: Line | str, end: str = "\n") -> None:
        """One line, in colours where there are any."""
        line = text if isinstance(text, Line) else Line(clean(text))
        if not self._styled:
            self._stream.write(line.plain + end)
            self._stream.flush()
            return
        self.console.print(styled(line), soft_wrap=True, end=end)


def _columns_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def styled(line: Line) -> Text:
    """The line as rich takes it."""
    from rich.text import Text

    return Text.assemble(*line.parts)


class Screen:
    """stdout and stderr of this command. Colours only on a terminal and without NO_COLOR."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.out = Side(sys.stdout, environment)
        self.err = Side(sys.stderr, environment)

    @property
    def interactive(self) -> bool:
        """Whether a person sits at both ends."""
        return sys.stdin.isatty() and self.err.is_tty

    def show(self, *lines: Line | str) -> None:
        """Lines of the result."""
        for line in lines:
            self.out.print(line)

    def show_json(self, value: Any) -> None:
        """The result for programs."""
        print(json.dumps(value, ensure_ascii=False, indent=2))

    def show_json_lines(self, values: Iterable[Any]) -> None:
        """A stream of results, one a line."""
        for value in values:
            print(json.dumps(value, ensure_ascii=False), flush=True)

    def say(self, text: str, style: str = "", end: str = "\n") -> None:
        """A word beside the result."""
        self.err.print(Line(clean(text), style), end)

    def warn(self, text: str) -> None:
        """A warning."""
        self.err.print(Line("warning: ", "yellow").append(clean(text)))

    def fail(self, text: str) -> None:
        """The error that ends the command: one line."""
        self.err.print(Line("error: ", "bold red").append(" ".join(clean(text).split())))
