"""Tables as CSV and JSON lines, on each kind of database: every row, its times as text, and no formulas."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import date
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from bouchet_api.ledger.export import FORMULA_STARTS, ROWS_AT_ONCE, ExportFormat, ExportTable, export_rows
from bouchet_api.ledger.periods import DateRange
from bouchet_api.ledger.tables import requests

from .conftest import LedgerUnderTest
from .entries import NOON, accounting, job, request

SPAN = DateRange(date(2026, 11, 10), date(2026, 11, 10), ZoneInfo("UTC"))

STARTS = tuple("=+-@＝＋－＠")


def exported(ledger: LedgerUnderTest, table: ExportTable, written_as: ExportFormat) -> list[dict[str, object]]:
    """Return the rows of an export as its reader has them."""
    text = "".join(export_rows(ledger.database, table, SPAN, written_as))
    if written_as is ExportFormat.CSV:
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("written_as", ExportFormat)
def test_export_has_every_row_once(ledger: LedgerUnderTest, written_as: ExportFormat) -> None:
    ledger.proxy.usage.add([request(id=f"r{number}") for number in range(ROWS_AT_ONCE + 1)])
    ledger.worker.ledger.append([job("one", ("serving", "2026-11-10T10:00:00", None)), accounting("one", 5.0)])
    ledger.consumer.take_pending()
    rows = exported(ledger, ExportTable.REQUESTS, written_as)
    assert {row["id"] for row in rows} == {f"r{number}" for number in range(ROWS_AT_ONCE + 1)}
    assert len(rows) == ROWS_AT_ONCE + 1 and rows[0]["at"] == "2026-11-10T12:00:00.000Z"
    assert [row["job"] for row in exported(ledger, ExportTable.JOBS, written_as)] == ["one"]
    assert [row["start"] for row in exported(ledger, ExportTable.SPANS, written_as)] == ["2026-11-10T10:00:00.000Z"]


def test_no_cell_of_an_export_is_a_formula_or_another_row(ledger: LedgerUnderTest) -> None:
    agents = [f"{start}1+1" for start in FORMULA_STARTS]
    agents += [f"a;{start}1+1" for start in FORMULA_STARTS] + ['x"; "=1+1', "a;b", "a\t=1+1"]
    agents += ['",=1+1,"', "a\nb,=1+1", "a\r=1+1", "a\r\n=1+1", "\x1b[31m<script>", "\u202egpj"]
    ledger.proxy.usage.add([request(NOON, agent=agent) for agent in agents])
    ledger.consumer.take_pending()
    rows = exported(ledger, ExportTable.REQUESTS, ExportFormat.CSV)
    shown = {str(row["agent"]) for row in rows}
    assert len(rows) == len(agents) and not any(text.startswith(FORMULA_STARTS) for text in shown)
    # also where a semicolon separates cells
    assert not [part for text in shown for part in re.split(r"[;\t\n]", text)[1:] if part.lstrip(' "')[:1] in STARTS]
    assert len(shown) == len({agent.replace("\r\n", "\n").replace("\r", "\n") for agent in agents})
    assert "a;b" in shown and "\u202egpj" in shown


@pytest.mark.parametrize("table", ExportTable)
def test_export_that_pauses_holds_no_connection_and_misses_no_row(
    ledger: LedgerUnderTest, table: ExportTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouchet_api.ledger.export.ROWS_AT_ONCE", 7)
    ledger.proxy.usage.add([request(NOON, id=f"r{number:03}") for number in range(50)])
    started = "2026-11-10T10:00:00"
    ledger.worker.ledger.append([job(f"j{number:03}", ("serving", started, None)) for number in range(50)])
    ledger.consumer.take_pending()
    exports = [export_rows(ledger.database, table, SPAN, ExportFormat.JSON_LINES) for _ in range(12)]
    begun = [next(one) for one in exports]
    # what is stored and removed meanwhile changes nothing of the rows that were there and stay
    ledger.proxy.usage.add([request(NOON, id="s")])
    assert ledger.consumer.take_pending() == 1
    with ledger.database.begin() as connection:
        connection.execute(sa.delete(requests).where(requests.c.id < "r005"))
    key = "id" if table is ExportTable.REQUESTS else "job"
    for first, rest in zip(begun, exports, strict=True):
        rows = [json.loads(line)[key] for line in (first + "".join(rest)).splitlines()]
        assert rows[:50] == sorted(rows[:50]) and len(rows) == len(set(rows)) and len(rows) >= 50
