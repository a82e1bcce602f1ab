"""A line of text with styles, and how wide text is. rich takes a while to load, and is asked only where it must be."""

from __future__ import annotations

import re
import textwrap

# All control characters but tab and newline: what comes from elsewhere must not steer this terminal.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """The text without control characters."""
    return CONTROL.sub("", text)


class Line:
    """Parts of a line, each with its style in rich's words ("green", "bold red", "dim")."""

    def __init__(self, text: str = "", style: str = "") -> None:
        self.parts: list[tuple[str, str]] = [(text, style)] if text else []

    def append(self, text: str, style: str = "") -> Line:
        """The line itself, longer."""
        if text:
            self.parts.append((text, style))
        return self

    @property
    def plain(self) -> str:
        """The text alone."""
        return "".join(text for text, _ in self.parts)


def cut(line: Line, width: int) -> Line:
    """The line in at most so many columns; an ellipsis stands for what is cut off."""
    if cells(line.plain) <= width:
        return line
    short, room = Line(), width - 1
    for text, style in line.parts:
        piece = text if cells(text) <= room else _cut(text, room)
        short.append(piece, style)
        room -= cells(piece)
        if room <= 0:
            break
    return short.append("…")


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly so many columns; what is cut off shows as an ellipsis."""
    text = clean(text).replace("\n", " ")
    if cells(text) > width:
        text = _cut(text, width - 1) + "…"
    padding = " " * (width - cells(text))
    return padding + text if right else text + padding


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many columns."""
    lines = textwrap.wrap(clean(text), width)
    if text.isascii():
        return lines
    from rich.cells import chop_cells  # textwrap counts characters, of which some are two columns wide

    return [part for line in lines for part in chop_cells(line, width)]


def _cut(text: str, width: int) -> str:
    if text.isascii():
        return text[:width]
    from rich.cells import set_cell_size

    return set_cell_size(text, width)
