"""Output of a command: styled text fitted to a width; results on stdout, messages on stderr.

Only a terminal gets colours and moving lines; for a pipe rich is not even imported, because it loads slowly.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


# All control characters except tab and newline, marks that turn the direction of writing, and characters without a
# width: text from the cluster must not control this terminal, nor look like another text. The joiners that some
# scripts are written with stay. The dashboard has the same in format.js.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Return the text without control characters and others that are not seen."""
    return CONTROL.sub("", text)


def replace_unprintable(*streams: TextIO) -> None:
    """Make the streams print `?` for a character that their encoding does not have, instead of failing."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def json_text(value: Any, indent: int | None = None) -> str:
    """Return the value as JSON in which all control characters are escaped, those that JSON would allow too."""
    encoding = (sys.stdout.encoding or "utf-8").lower()
    text = json.dumps(value, ensure_ascii=not encoding.startswith("utf"), indent=indent)
    return CONTROL.sub(lambda found: json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f"), text)


class StyledLine:
    """Parts of a line, each with a rich style ("green", "bold red", "dim"), without control characters."""

    def __init__(self, text: str = "", style: str = "") -> None:
        self.parts: list[tuple[str, str]] = []
        self.append(text, style)

    def append(self, text: str, style: str = "") -> StyledLine:
        """Append a part and return the line."""
        if text := clean(text):
            self.parts.append((text, style))
        return self

    @property
    def plain(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.parts)


def join_lines(lines: Iterable[StyledLine]) -> StyledLine:
    """Return the lines as one text, for what redraws several at once."""
    joined = StyledLine()
    for line in lines:
        joined.append("\n" if joined.parts else "")
        for text, style in line.parts:
            joined.append(text, style)
    return joined


def truncate(line: StyledLine, width: int) -> StyledLine:
    """Return the line in at most `width` columns, with an ellipsis in place of what was removed."""
    if cell_width(line.plain) <= width:
        return line
    short, left = StyledLine(), width - 1
    for text, style in line.parts:
        piece = text if cell_width(text) <= left else _cut(text, left)
        short.append(piece, style)
        left -= cell_width(piece)
        if left <= 0:
            break
    return short.append("…")


def cell_width(text: str) -> int:
    """Return how many terminal columns the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return the text padded or truncated to exactly `width` columns. right: align to the right."""
    text = clean(text).replace("\n", " ").replace("\t", " ")
    if cell_width(text) > width:
        text = _cut(text, width - 1) + "…"
    padding = " " * (width - cell_width(text))
    return padding + text if right else text + padding


def wrap(text: str, width: int) -> list[str]:
    """Return the text in lines of at most `width` columns, broken at spaces where possible."""
    lines = textwrap.wrap(clean(text), width, break_on_hyphens=False)
    if text.isascii():
        return lines
    from rich.cells import chop_cells

    return [part for line in lines for part in chop_cells(line, width)]


def wrap_message(text: str, width: int) -> list[str]:
    """Return the lines of a message, long ones broken at spaces only, so that URLs and options stay whole."""
    lines = []
    for line in text.split("\n"):
        while cell_width(line) > width:
            indent = len(line) - len(line.lstrip())
            end = line.rfind(" ", indent, width + 1)
            end = end if end >= 0 else line.find(" ", width)
            if end < 0:
                break
            lines.append(line[:end].rstrip())
            line = line[end:].lstrip()
        lines.append(line)
    return lines


def _cut(text: str, width: int) -> str:
    if text.isascii():
        return text[:width]
    from rich.cells import set_cell_size

    return set_cell_size(text, width)


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

    def print(self, text: StyledLine | str, end: str = "\n", *, raw: bool = False) -> None:
        """Print one line, with colours on a terminal. raw: it is a command for the terminal, of our own."""
        if raw:
            self._stream.write(f"{text}{end}")
            self._stream.flush()
            return
        line = text if isinstance(text, StyledLine) else StyledLine(text)
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

    def show_text(self, text: str) -> None:
        """Print text for programs, such as CSV; names in it come from clients, and the reader may be a terminal."""
        print(clean(text), end="", flush=True)

    def show_json(self, value: Any) -> None:
        """Print the result as one JSON document."""
        print(json_text(value, indent=2))

    def show_json_lines(self, values: Iterable[Any]) -> None:
        """Print a stream of results, one JSON document a line."""
        for value in values:
            print(json_text(value), flush=True)

    def note(self, text: str, style: str = "") -> None:
        """Print a message about the result."""
        self.err.print_message(text, style)

    def question(self, text: str) -> str:
        """Print a question and return the typed answer. Not input(text), because stdout may be a pipe.

        Ctrl-D is no answer: it ends the command as Ctrl-C does.
        """
        self.err.print(StyledLine(text), end="")
        return self._typed(input)

    def secret(self, text: str) -> str:
        """Ask for an answer that is not shown."""
        return self._typed(partial(getpass.getpass, text))

    def _typed(self, read: Callable[[], str]) -> str:
        try:
            return read()
        except EOFError as exc:
            self.err.print("")
            raise KeyboardInterrupt from exc

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.err.print_message(text, label="warning: ", label_style="yellow")

    def error(self, text: str) -> None:
        """Print the error that ends the command, as one line."""
        self.err.print_message(" ".join(clean(text).split()), label="error: ", label_style="bold red")
