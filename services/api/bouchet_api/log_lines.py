"""From pieces of a growing log file to whole lines. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line of text and the offset in bytes just behind it: where to go on reading."""

    text: str
    end: int


def whole_lines(data: bytes, start: int, *, all_of_it: bool = False) -> list[Line]:
    """The lines of a piece that begins at offset `start`.

    What follows the last newline is still being written and left out, unless all_of_it.
    """
    lines: list[Line] = []
    position = 0
    while (newline := data.find(b"\n", position)) >= 0:
        lines.append(Line(_shown(data[position:newline]), start + newline + 1))
        position = newline + 1
    if all_of_it and position < len(data):
        lines.append(Line(_shown(data[position:]), start + len(data)))
    return lines


def _shown(line: bytes) -> str:
    """What a terminal would show: a progress bar overwrites itself after a carriage return."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
