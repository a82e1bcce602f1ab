"""Tables as CSV and JSON lines, on each kind of database: every row, its times as text, and no formulas."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from zoneinfo import ZoneInfo

import pytest
from bouchet_api.ledger.export import FORMULA_STARTS, ROWS_AT_ONCE, ExportFormat, ExportTable, export_rows
from bouchet_api.ledger.periods import DateRange

from .conftest import LedgerUnderTest
from .entries import NOON, accounting, job, request

SPAN = DateRange(date(2026, 11, 10), date(2026, 11, 10), ZoneInfo("UTC"))


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
    agents += ['",=1+1,"', "a\nb,=1+1", "a\r=1+1", "a\r\n=1+1", "\x1b[31m<script>", "\u202egpj"]
    ledger.proxy.usage.add([request(NOON, agent=agent) for agent in agents])
    ledger.consumer.take_pending()
    rows = exported(ledger, ExportTable.REQUESTS, ExportFormat.CSV)
    shown = {str(row["agent"]) for row in rows}
    assert len(rows) == len(agents) and not any(text.startswith(FORMULA_STARTS) for text in shown)
    marked = [f"'{agent}" if agent.startswith(FORMULA_STARTS) else agent for agent in agents]
    assert shown == {text.replace("\r\n", "\n").replace("\r", "\n") for text in marked}
