"""Output of a command: results on stdout, messages on stderr, so that results can be piped.

Only a terminal gets colours and moving lines; for a pipe rich is not even imported.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from .text import StyledLine, clean, wrap_message

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# tables are unreadable below this width
MIN_WIDTH = 40
# of a terminal that does not report its width
DEFAULT_WIDTH = 80
# output that does not go to a terminal is neither cut nor wrapped
UNLIMITED_WIDTH = 1_000_000


class OutputStream:
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
        """Columns: COLUMNS if it is set, else the terminal's width; unlimited without a terminal."""
        requested = int(self._columns) if self._columns.isdecimal() else 0
        if not requested and not self.is_tty:
            return UNLIMITED_WIDTH
        return max(MIN_WIDTH, requested or _terminal_columns(self._stream) or DEFAULT_WIDTH)

    @cached_property
    def console(self) -> Console:
        """The rich console for what moves, such as a progress bar. Check is_terminal first."""
        from rich.console import Console

        return Console(file=self._stream, width=self.width, highlight=False, markup=False, emoji=False)

    def print(self, text: StyledLine | str, end: str = "\n") -> None:
        """Print one line, with colours on a terminal."""
        line = text if isinstance(text, StyledLine) else StyledLine(clean(text))
        if not self._styled:
            self._stream.write(line.plain + end)
            self._stream.flush()
            return
        self.console.print(rich_text(line), soft_wrap=True, end=end)

    def print_message(self, text: str, style: str = "", *, label: str = "", label_style: str = "") -> None:
        """Print a message after its label ("error: "); on a terminal wrapped at spaces."""
        lines = wrap_message(label + clean(text), self.width) if self.is_tty else [label + clean(text)]
        first, *more = lines or [""]
        self.print(StyledLine(label, label_style).append(first[len(label) :], style))
        for line in more:
            self.print(StyledLine(line, style))


def _terminal_columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def rich_text(line: StyledLine) -> Text:
    """Return the line as a rich Text."""
    from rich.text import Text

    return Text.assemble(*line.parts)


class Screen:
    """stdout and stderr of this command. Colours appear only on a terminal and without NO_COLOR."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.out = OutputStream(sys.stdout, environment)
        self.err = OutputStream(sys.stderr, environment)

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked: stdin and stderr are terminals."""
        return sys.stdin.isatty() and self.err.is_tty

    def show(self, *lines: StyledLine | str) -> None:
        """Print lines of the result."""
        for line in lines:
            self.out.print(line)

    def show_json(self, value: Any) -> None:
        """Print the result as one JSON document."""
        print(json.dumps(value, ensure_ascii=False, indent=2))

    def show_json_lines(self, values: Iterable[Any]) -> None:
        """Print a stream of results, one JSON document a line."""
        for value in values:
            print(json.dumps(value, ensure_ascii=False), flush=True)

    def note(self, text: str, style: str = "") -> None:
        """Print a message about the result."""
        self.err.print_message(text, style)

    def question(self, text: str) -> str:
        """Print a question and return the typed answer. Not input(text), because stdout may be a pipe."""
        self.err.print(StyledLine(clean(text)), end="")
        return input()

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.err.print_message(text, label="warning: ", label_style="yellow")

    def error(self, text: str) -> None:
        """Print the error that ends the command, as one line."""
        self.err.print_message(" ".join(clean(text).split()), label="error: ", label_style="bold red")
