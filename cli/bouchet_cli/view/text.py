"""Styled lines, and text fitted to a width. Imports rich only for text that is not ASCII, because rich loads slowly."""

from __future__ import annotations

import re
import textwrap

# All control characters except tab and newline: text from the cluster must not control this terminal.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Return the text without control characters."""
    return CONTROL.sub("", text)


class StyledLine:
    """Parts of a line, each with a rich style ("green", "bold red", "dim")."""

    def __init__(self, text: str = "", style: str = "") -> None:
        self.parts: list[tuple[str, str]] = [(text, style)] if text else []

    def append(self, text: str, style: str = "") -> StyledLine:
        """Append a part and return the line."""
        if text:
            self.parts.append((text, style))
        return self

    @property
    def plain(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.parts)


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
    text = clean(text).replace("\n", " ")
    if cell_width(text) > width:
        text = _cut(text, width - 1) + "…"
    padding = " " * (width - cell_width(text))
    return padding + text if right else text + padding


def wrap(text: str, width: int) -> list[str]:
    """Return the text in lines of at most `width` columns, broken at spaces where possible."""
    lines = textwrap.wrap(clean(text), width, break_on_hyphens=False)
    if text.isascii():
        return lines
    from rich.cells import chop_cells  # textwrap counts characters, and some take two columns

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
