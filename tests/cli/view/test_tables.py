"""Tables, text and numbers that fit their width."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bouchet_cli.view.lists import image_lines, usage_lines
from bouchet_cli.view.screen import StyledLine, cell_width, clean, truncate, wrap_message
from bouchet_cli.view.tables import (
    Column,
    bar,
    binary_size,
    decimal_size,
    duration,
    milliseconds,
    plural,
    precise_duration,
    short_count,
    start_time,
    table,
    tokens,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.samples import IMAGES, NOW, USAGE

CELLS = st.text(st.characters(codec="utf-8"), max_size=120)
COLUMNS = (
    Column("A", flexible=True),
    Column("B"),
    Column("C", rank=1),
    Column("D", flexible=True, rank=2),
    Column("E", right=True, rank=3),
    Column("F"),
)


@given(st.lists(st.lists(CELLS, min_size=6, max_size=6), max_size=4), CELLS, st.integers(40, 200))
def test_table_is_never_wider_than_its_width(rows: list[list[str]], note: str, width: int) -> None:
    for line in table(COLUMNS, rows, width, notes=[note] * len(rows)):
        assert cell_width(line.plain) <= width
        assert clean(line.plain) == line.plain
        assert "\n" not in line.plain


def test_narrow_table_drops_columns_before_it_cuts_names_or_numbers() -> None:
    row = ["a" * 20, "12345678", "87654321", "d" * 30, "1234", "56789"]
    wide, narrow = (table(COLUMNS, [row], width)[1].plain for width in (120, 60))
    assert wide.split() == row
    assert narrow.split() == ["a" * 20, "12345678", "87654321", "56789"]
    assert {"12345678", "56789"} <= set(narrow.split())


@pytest.mark.parametrize("width", [60, 61, 80, 100, 200])
def test_texts_give_way_before_a_number_is_cut(width: int) -> None:
    columns = (
        Column("AGE", right=True),
        Column("CLIENT", flexible=True),
        Column("PHASE"),
        Column("TOKENS", right=True),
        Column("CONV", rank=1),
    )
    rows = [["11574074d00h", "模型" * 30, "x" * 50, "1,000,000,000,000", "a1f3"], ["7s", "x", "held", "0", "-"]]
    lines = [line.plain for line in table(columns, rows, width)]
    assert max(map(cell_width, lines)) <= width
    assert {"11574074d00h", "1,000,000,000,000"} <= set(lines[1].split())


@pytest.mark.parametrize("width", [40, 60, 80, 120, 1_000_000])
def test_usage_table_never_cuts_a_number(width: int) -> None:
    lines = [line.plain for line in usage_lines("key", [USAGE, {**USAGE, "name": "b" * 50}], width)]
    assert all(len(line) <= width for line in lines)
    assert "…" not in lines[1] and "150" in lines[1].split()
    assert "2 rate_limit_exceeded" in lines[2]


@pytest.mark.parametrize("width", [40, 60, 100])
def test_image_table_keeps_pins_whole(width: int) -> None:
    text = "\n".join(line.plain for line in image_lines(IMAGES, width))
    assert "cpu-0.32.0 " in text and "cuda13-0.32.0 " in text and "+cpu" not in text
    assert "mine" in text and max(map(len, text.splitlines())) <= width


@given(st.lists(CELLS, max_size=5), st.integers(1, 60))
def test_truncated_line_fits_its_width(texts: list[str], width: int) -> None:
    line = StyledLine()
    for text in texts:
        line.append(clean(text).replace("\n", " ").replace("\t", " "), "bold")
    short = truncate(line, width)
    assert cell_width(short.plain) <= width
    assert (short is line) == (cell_width(line.plain) <= width)


def test_wrap_message_breaks_at_spaces_only() -> None:
    text = "stop it: `bouchet download x --cancel`\n  /model   list them http://127.0.0.1:4000/a-long-path end"
    lines = wrap_message(text, 24)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert "http://127.0.0.1:4000/a-long-path" in lines
    assert max(len(line) for line in lines if "http" not in line) <= 24
    assert wrap_message("  short\nlines", 80) == ["  short", "lines"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (59, "59s"), (60, "1m"), (3600, "1h00m"), (90_000, "1d01h"), (7 * 86400, "7d00h")],
)
def test_duration_is_short(seconds: int, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.44, "0.4s"), (9.9, "9.9s"), (59.2, "59s"), (125, "2m05s"), (11_100, "3h05m")]
)
def test_precise_duration_shows_tenths_and_seconds(seconds: float, shown: str) -> None:
    assert precise_duration(seconds) == shown


def test_start_time_is_relative_to_now() -> None:
    assert start_time(NOW + timedelta(minutes=5), NOW) == "in 5m"
    assert start_time(NOW - timedelta(minutes=5), NOW) == "soon"
    assert start_time(None, NOW) == "-"


def test_counts_and_sizes_are_short() -> None:
    assert [tokens(count) for count in (262144, 40960, 500, None)] == ["256k", "40k", "500", "-"]
    assert [short_count(n) for n in (0, 999, 1000, 12_345, 4_560_000)] == ["0", "999", "1.00k", "12.3k", "4.56M"]
    assert [milliseconds(n) for n in (999, 2345, 41_000)] == ["999ms", "2.3s", "41s"]
    assert [binary_size(n) for n in (12, 340 << 20, 3 << 39)] == ["12 B", "340 MiB", "1.5 TiB"]
    assert [decimal_size(n) for n in (12, 3_400_000, 234_000_000)] == ["12 B", "3.4 MB", "234 MB"]
    assert [plural(n, "job") for n in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_bar_shows_any_amount_above_zero() -> None:
    assert [bar(amount, 8, 2) for amount in (8, 4, 0)] == ["██", "█ ", "  "]
    assert bar(1, 10**9, 4).strip()
