"""GPU hours and charge as people see them, and tables as CSV. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bouchet_cli.client.http import Json

from .screen import StyledLine, clean
from .tables import Column, bar, plural, table

# a spreadsheet takes a cell that begins so for a formula, also in the wide forms of East Asian keyboards
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# where decimals have a comma, a spreadsheet begins a cell after a semicolon as well, and after a tab or a line
FORMULA_WITHIN = re.compile(r"(?<=[;\t\r\n])(?=[ \"]*[=+\-@＝＋－＠])")
BAR_COLUMN = 2
HOURS = ("starting_hours", "serving_hours", "idle_hours")


def gpu_lines(by: str, lines: Sequence[Json], width: int) -> list[StyledLine]:
    """Return a table with a row for each model, day or GPU type."""
    columns = (
        Column(by.upper().replace("_", " "), flexible=True),
        Column("GPU H", right=True),
        Column("", rank=9),
        Column("JOBS", right=True, rank=4),
        Column("START", right=True, rank=6),
        Column("SERVE", right=True, rank=5),
        Column("IDLE", right=True, rank=3),
        Column("CHARGE", right=True, rank=1),
    )
    largest = max((round(line["gpu_hours"] * 100) for line in lines), default=0)
    rows = [_row(line, largest) for line in lines]
    return table(columns, rows, width, styles=["cyan"] * len(rows), styled=BAR_COLUMN)


def total_line(total: Json) -> str:
    """Return the sum of everything in one line."""
    hours = total["gpu_hours"]
    idle = f", {total['idle_hours'] / hours:.0%} of it idle" if hours else ""
    charge = f", {_charge(total)}" if total["charge"] is not None else ""
    return f"in all {hours:,.1f} GPU hours{idle}{charge}"


def accounting_line(found: Json) -> str:
    """Return how the ledger compares with sacct."""
    if not found["jobs"]:
        return "not compared with sacct yet"
    asked = datetime.fromisoformat(found["asked_at"]).astimezone()
    difference = found["difference_s"]
    more = f"{abs(difference):,.0f} GPU s {'more' if difference > 0 else 'less'} here than"
    text = "the same as" if abs(difference) < 1 else more
    return f"{plural(found['jobs'], 'ended job')}, {text} in sacct ({asked:%d %b %H:%M})"


def csv_text(lines: Sequence[Json]) -> str:
    """Return lines as CSV, empty without any; a mapping in a line is left out."""
    if not lines:
        return ""
    names = [name for name, value in lines[0].items() if not isinstance(value, dict)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(line[name]) for name in names] for line in lines)
    return out.getvalue()


def _row(line: Json, largest: int) -> tuple[str, ...]:
    hours = [f"{line[name]:,.1f}" for name in HOURS]
    amount = round(line["gpu_hours"] * 100)
    return (
        clean(line["name"] or "-"),
        f"{line['gpu_hours']:,.1f}",
        bar(amount, largest),
        f"{line['jobs']:,}",
        *hours,
        _charge(line) if line["charge"] is not None else "-",
    )


def _charge(line: Json) -> str:
    return f"{line['charge']:,.0f} {clean(line['charge_unit'])}"


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = FORMULA_WITHIN.sub("'", f"'{value}" if value.startswith(FORMULA_STARTS) else value)
    # Python's csv puts no quotes around a carriage return, which ends a row all the same
    return text.replace("\r\n", "\n").replace("\r", "\n")
