"""What a terminal and the dashboard do not show as it is: both have the same characters."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from bouchet_api.dashboard.pages import FOLDER
from bouchet_api.ledger import export
from bouchet_api.ledger.page import as_text
from bouchet_cli.view import ledger
from bouchet_cli.view.screen import CONTROL, Screen, clean, fit, json_text, wrap
from bouchet_core.notices import plain_text
from bouchet_core.settings import OneLineFormatter
from bouchet_core.values import UNSEEN

# beside tab and newline: joiners, without which Persian or families of emoji are not what was written
LEFT = {"\t", "\n", "\u200c", "\u200d"}
# signs of scripts that are seen: of numbers, verses, abbreviations and hieroglyphs, and ties of music
SEEN_SIGNS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a]")  # fmt: skip
# a name of 64 KB, and others that hide something or turn what follows
HOSTILE = [
    "x\u202e" * 32_768, "n\x00ul", "\x9b31mred", "\x1b]0;title\x07", "pay\u200bpal", "\u2066a\u2069", "\ufeffa",
    "a\u2028b", "\u3164", "a\U000e0041\U000e0042", "\u061cab", "a\xadb", "x\t\ny",
]  # fmt: skip


def characters_of_page() -> set[str]:
    """Return the characters that the dashboard shows as codes."""
    found = re.search(r"^const CONTROL = /(\[.*\])/gu;$", Path(FOLDER, "format.js").read_text(), re.MULTILINE)
    assert found is not None
    written = re.sub(r"\\u\{([0-9a-f]+)\}", lambda one: f"\\U{int(one[1], 16):08x}", found[1])
    return matching(re.compile(written))


def matching(pattern: re.Pattern[str]) -> set[str]:
    """Return all characters that the pattern finds."""
    return {one for one in map(chr, range(sys.maxunicode + 1)) if pattern.fullmatch(one)}


def test_terminal_and_page_leave_out_the_same_characters() -> None:
    assert matching(CONTROL) == characters_of_page() == matching(UNSEEN)


def test_every_control_format_and_line_character_is_among_them() -> None:
    unseen = {
        one for one in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp")
    }
    left = {one for one in unseen - matching(CONTROL) if not SEEN_SIGNS.match(one)}
    assert left == LEFT


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_hostile_text_is_one_line_of_what_is_seen(text: str) -> None:
    assert not CONTROL.search(clean(text)) and not CONTROL.search("".join(wrap(text, 80)))
    shown = fit(text, 20)
    assert len(shown) == 20 and "\n" not in shown and "\t" not in shown and not CONTROL.search(shown)
    assert not CONTROL.search(json_text({"name": text}))
    # on the page for printing, in a log and in a notification too; a ping is broken by what is not seen
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (text,), None)
    for written in (as_text(text), OneLineFormatter("%(message)s").format(record), plain_text(text, 100)):
        assert not CONTROL.search(written) and "\n" not in written


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_csv_in_a_terminal_steers_nothing(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Screen({}).show_text(ledger.csv_text([{"name": text, "gpu_hours": 1.5}]))
    shown = capsys.readouterr().out
    assert not CONTROL.search(shown) and shown.endswith(",1.5\n")


def test_tables_for_spreadsheets_know_the_same_formulas() -> None:
    assert export.FORMULA_STARTS == ledger.FORMULA_STARTS
    assert export.FORMULA_WITHIN == ledger.FORMULA_WITHIN
    cells = ["a;=1", "a\t @x", "a;b", "a\r=1+1", "\r\n=1+1", "＝1", "a,=1", '"=1']
    lines = [{"name": cell, "gpu_hours": 1.5} for cell in cells]
    assert ledger.csv_text(lines) == export.render_csv(("name", "gpu_hours"), [(cell, 1.5) for cell in cells])
    assert len(list(csv.reader(io.StringIO(ledger.csv_text(lines), newline="")))) == len(cells) + 1
