"""Tables that fit a width, and numbers in few characters: on a narrow terminal columns are dropped, digits never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from .screen import MIN_WIDTH, StyledLine, cell_width, clean, fit, wrap

BAR_CELLS = 8
EIGHTHS = " ▏▎▍▌▋▊▉"


def duration(seconds: float) -> str:
    """Return 42s, 12m, 3h05m or 2d04h."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole}s"
    if hours < 1:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60:02}m" if days < 1 else f"{days}d{hours % 24:02}h"


def precise_duration(seconds: float) -> str:
    """Return 0.4s, 42s, 2m05s or 3h05m."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02}s" if 60 <= seconds < 3600 else duration(seconds)


def milliseconds(count: int) -> str:
    """Return 340ms, 2.3s or 41s."""
    if count < 1000:
        return f"{count}ms"
    return f"{count / 1000:.1f}s" if count < 10_000 else f"{count / 1000:.0f}s"


def age(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was."""
    return f"{duration((now - moment).total_seconds())} ago"


def start_time(estimate: datetime | None, now: datetime) -> str:
    """Return Slurm's estimate of when a queued job starts, relative to now; "-" without one."""
    if estimate is None:
        return "-"
    left = (estimate - now).total_seconds()
    return f"in {duration(left)}" if left > 0 else "soon"


def tokens(count: int | None) -> str:
    """Return a context window in k tokens of 1024."""
    if count is None:
        return "-"
    return f"{count // 1024}k" if count >= 1024 else str(count)


def short_count(count: int) -> str:
    """Return 950, 12.3k or 4.56M: at most three digits."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return str(count)


def binary_size(count: float) -> str:
    """Return 12.3 GiB, 340 MiB or 12 B: sizes of files and disks."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit == "GiB" else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def decimal_size(count: float) -> str:
    """Return 12 B or 3.4 MB: network traffic."""
    units = ("B", "KB", "MB", "GB", "TB")
    for unit in units:
        if count < 1000 or unit == units[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def bar(amount: int, largest: int, cells: int = BAR_CELLS) -> str:
    """Return a bar of at most `cells` columns; any amount above zero is visible."""
    eighths = max(1, round(amount / largest * cells * 8)) if amount and largest else 0
    return ("█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")).ljust(cells)


def plural(count: int, noun: str) -> str:
    """Return "1 job" or "3 jobs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


GAP = "  "
NOTE_INDENT = "  "
# a flexible column is shortened to this width before a column is dropped
MIN_FLEXIBLE = 12
# and no text to less than this
MIN_TEXT = 3
# the first column has names, of which most are no longer
NAME_WIDTH = 36


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
        spare = sum(max(0, size - _least(index)) for index, size in widths.items() if columns[index].flexible)
        droppable = [index for index in widths if columns[index].rank]
        if excess <= spare or not droppable:
            break
        del widths[max(droppable, key=lambda index: (columns[index].rank, index))]
    _shrink(columns, widths, width)
    return widths


def _least(index: int) -> int:
    """Return the width below which a flexible column is shortened only when no column is left to drop."""
    return MIN_FLEXIBLE if index else NAME_WIDTH


def _shrink(columns: Sequence[Column], widths: dict[int, int], width: int) -> None:
    """Shorten the widest flexible columns until the row fits; names and other texts only if that is not enough.

    Columns that are aligned to the right have numbers: a part of one is another number, so they stay.
    """
    while _total(widths) > width:
        able = [index for index in widths if columns[index].flexible and widths[index] > MIN_FLEXIBLE]
        flexible = [index for index in able if widths[index] > _least(index)] or able
        texts = [index for index in widths if not columns[index].right and widths[index] > MIN_TEXT]
        if not flexible and not texts:
            return
        widest = max(flexible or texts, key=lambda index: widths[index])
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
