"""Tables that fit a width: on a narrow terminal columns are dropped and text is shortened, numbers never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .screen import MIN_WIDTH, StyledLine, cell_width, clean, fit, wrap

GAP = "  "
NOTE_INDENT = "  "
# a flexible column is shortened to this width before a column is dropped
MIN_FLEXIBLE = 12


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    # align to the right
    right: bool = False
    # its text may be shortened
    flexible: bool = False
    # on a narrow terminal the column of the highest rank is dropped first; rank 0 stays
    rank: int = 0


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    notes: Sequence[str] = (),
    styles: Sequence[str] = (),
    styled: int = 1,
) -> list[StyledLine]:
    """Return the lines of a table at most `width` columns wide.

    notes: one a row, printed below it. styles: one a row, for the column with the index `styled`.
    """
    width = max(width, MIN_WIDTH)
    titles = [column.title for column in columns]
    widths = _layout(columns, [titles, *rows], width)
    lines = [_row(titles, columns, widths, ["bold"] * len(columns))]
    for index, row in enumerate(rows):
        cell_styles = [styles[index] if styles and column == styled else "" for column in range(len(row))]
        lines.append(_row(row, columns, widths, cell_styles))
        note = notes[index] if notes else ""
        lines += [StyledLine(NOTE_INDENT + part, "dim") for part in wrap(note, width - len(NOTE_INDENT))]
    return lines


def _layout(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Return the width of each column that is shown, by index."""
    cells = zip(*rows, strict=True)
    widths = {index: max(cell_width(clean(cell)) for cell in column) for index, column in enumerate(cells)}
    while (excess := _total(widths) - width) > 0:
        spare = sum(max(0, size - MIN_FLEXIBLE) for index, size in widths.items() if columns[index].flexible)
        droppable = [index for index in widths if columns[index].rank]
        if excess <= spare or not droppable:
            break
        del widths[max(droppable, key=lambda index: (columns[index].rank, index))]
    _shrink(columns, widths, width)
    return widths


def _shrink(columns: Sequence[Column], widths: dict[int, int], width: int) -> None:
    """Shorten the widest flexible columns until the row fits; the others only if that is not enough."""
    while _total(widths) > width:
        flexible = [index for index in widths if columns[index].flexible and widths[index] > MIN_FLEXIBLE]
        widest = max(flexible or widths, key=lambda index: widths[index])
        widths[widest] -= 1


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _row(row: Sequence[str], columns: Sequence[Column], widths: dict[int, int], styles: Sequence[str]) -> StyledLine:
    line = StyledLine()
    last = max((index for index in widths if clean(row[index]).strip()), default=0)
    for index, width in widths.items():
        if index > last:
            break
        text = fit(row[index], width, right=columns[index].right)
        line.append(text.rstrip() if index == last else text + GAP, styles[index])
    return line
