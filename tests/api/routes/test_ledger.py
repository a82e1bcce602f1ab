"""/v1/ledger and /usage over the real API: views, export, the page, and what happens without a database."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bouchet_core.ledger import JobEntry, JobSpan, SpanKind
from bouchet_core.policy import Budget, BudgetUnit, Period

from tests.api.ledger.entries import accounting, job, request
from tests.fakes.running_api import RunningApi
from tests.waiting import wait_for

DAYS = {"from": "2026-11-10", "to": "2026-11-10", "zone": "UTC"}
HOSTILE = '<script>alert(1)</script>"\x1b[31m'


@pytest.fixture
def filled(client: httpx.Client, live_api: RunningApi) -> httpx.Client:
    """Return a client of an API whose ledger has some requests and a job; the database lasts for all tests here."""
    before = sum(line["requests"] for line in get(client, "/v1/ledger", by="client", **DAYS)["lines"])
    made = [request(client="codex"), request(key=HOSTILE, model=HOSTILE, error="overloaded", status=529, output=0)]
    live_api.store.usage.add(made)
    entry = job("bouchet-x7k2-1", ("serving", "2026-11-10T10:00", "2026-11-10T12:00"), model=HOSTILE)
    live_api.store.ledger.append([entry, accounting("bouchet-x7k2-1", 4 * 3600 - 1.0)])
    wait_for(
        lambda: sum(line["requests"] for line in get(client, "/v1/ledger", by="client", **DAYS)["lines"]) == before + 2
    )
    wait_for(lambda: get(client, "/v1/ledger/gpu", **DAYS)["accounting"]["jobs"] == 1)
    return client


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    """Return the JSON answer."""
    return client.get(path, params=query).raise_for_status().json()


def test_views_answer_with_lines_and_their_total(filled: httpx.Client) -> None:
    people = get(filled, "/v1/ledger", **DAYS)
    assert (people["by"], people["first"], people["last"], people["zone"]) == ("key", *list(DAYS.values())[:2], "UTC")
    assert {line["name"] for line in people["lines"]} == {"alice", HOSTILE}
    assert people["total"]["requests"] == sum(line["requests"] for line in people["lines"])
    assert people["total"]["errors_by_kind"]["overloaded"] >= 1
    gpu = get(filled, "/v1/ledger/gpu", by="gpu_type", **DAYS)
    assert [(line["name"], line["gpu_hours"], line["charge"]) for line in gpu["lines"]] == [("h200", 4.0, 1200.0)]
    assert gpu["accounting"]["difference_s"] == 1.0
    [compared] = get(filled, "/v1/ledger/accounting", **DAYS)["jobs"]
    assert (compared["measured_s"], compared["accounted_s"]) == (14_400.0, 14_399.0)
    assert get(filled, "/v1/ledger/requests", limit=1, failed=True)["requests"][0]["error"] == "overloaded"


def test_budget_that_is_left_counts_what_the_ledger_has_of_its_period(
    client: httpx.Client, live_api: RunningApi
) -> None:
    assert get(client, "/v1/ledger/budget")["budget"] is None
    state, now = live_api.app.state.bouchet, datetime.now(UTC)
    entry = job("bouchet-left-1", charge_per_gpu_hour=300.0).model_copy(
        update={"spans": (JobSpan(kind=SpanKind.SERVING, start=now - timedelta(seconds=2), end=now),)}
    )
    live_api.store.ledger.append([entry])
    today = {"zone": "UTC", "from": f"{now:%Y-%m-%d}", "to": f"{now:%Y-%m-%d}"}
    total = wait_for(lambda: found if (found := get(client, "/v1/ledger/gpu", **today)["total"])["jobs"] else None)
    live_api.app.state.bouchet = replace(state, budget=Budget(amount=1000, unit=BudgetUnit.CHARGE, period=Period.DAY))
    try:
        found = get(client, "/v1/ledger/budget", zone="UTC")
    finally:
        live_api.app.state.bouchet = state
    assert (found["budget"], found["period"], found["limit"]) == ("1,000 charge units a day", "day", 1000)
    assert total and found["used"] == total["charge"] > 0 and found["left"] == round(1000 - found["used"], 4)
    assert datetime.fromisoformat(found["ends_at"]) > now


def test_csv_of_a_view_has_no_formulas(filled: httpx.Client, live_api: RunningApi) -> None:
    live_api.store.usage.add([request(key="=cmd|' /C calc'!A0")])
    wait_for(lambda: "=cmd" in filled.get("/v1/ledger", params={**DAYS, "csv": True}).text)
    answer = filled.get("/v1/ledger", params={**DAYS, "csv": True})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="usage-by-key-2026-11-10.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert "'=cmd|' /C calc'!A0" in {row["name"] for row in rows}
    hours = list(csv.DictReader(io.StringIO(filled.get("/v1/ledger/gpu", params={**DAYS, "csv": True}).text)))
    assert float(hours[0]["gpu_hours"]) == 4.0


def test_export_has_a_row_a_line_in_both_formats(filled: httpx.Client) -> None:
    for table in ("requests", "jobs", "spans"):
        as_csv = filled.get("/v1/ledger/export", params={**DAYS, "table": table}).raise_for_status().text
        as_lines = filled.get("/v1/ledger/export", params={**DAYS, "table": table, "format": "jsonl"}).text
        rows = list(csv.DictReader(io.StringIO(as_csv)))
        objects = [json.loads(line) for line in as_lines.splitlines()]
        assert len(rows) == len(objects) >= 1
        assert set(rows[0]) == set(objects[0])
    assert objects[0]["start"] == "2026-11-10T10:00:00.000Z"


def test_page_for_printing_escapes_everything(filled: httpx.Client) -> None:
    page = filled.get("/usage", params={"month": "2026-11", "zone": "America/New_York"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert "<script" not in page.text and "&lt;script&gt;alert(1)" in page.text
    assert "\x1b" not in page.text
    assert "2026-11-01 to 2026-11-30" in page.text and "America/New_York" in page.text
    assert "GPU hours" in page.text and "@media print" in page.text
    assert "Compared with Slurm&#x27;s accounting" in page.text


def test_page_and_views_need_the_key(live_api: RunningApi) -> None:
    for path in ("/usage", "/v1/ledger", "/v1/ledger/export"):
        assert httpx.get(live_api.url + path, trust_env=False).status_code == 401


@pytest.mark.parametrize(
    ("query", "kind"),
    [({"zone": "Mars"}, "invalid_period"), ({"month": "2026-13"}, "invalid_period"), ({"by": "x"}, "bad_request")],
)
def test_bad_period_is_a_problem(client: httpx.Client, query: dict[str, str], kind: str) -> None:
    answer = client.get("/v1/ledger", params=query)
    assert (answer.status_code, answer.json()["kind"]) == (422, kind)


def test_status_says_that_all_is_well(client: httpx.Client) -> None:
    status = wait_for(lambda: found if not (found := get(client, "/v1/ledger/status"))["problem"] else None)
    assert (status["problem"], status["lost"], status["keep_days"]) == ("", 0, 400)
    assert status["database"].endswith("ledger.sqlite3")


def test_job_that_runs_is_part_of_today(client: httpx.Client, live_api: RunningApi) -> None:
    today = datetime.now(UTC)
    entry = JobEntry(
        job="bouchet-now-1",
        deployment="now",
        model="demo/now",
        gpus=1,
        spans=(JobSpan(kind=SpanKind.SERVING, start=today),),
    )
    live_api.store.ledger.append([entry])
    wait_for(lambda: "demo/now" in [line["name"] for line in get(client, "/v1/ledger/gpu")["lines"]])
