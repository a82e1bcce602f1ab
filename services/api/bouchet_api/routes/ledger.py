"""/v1/ledger: sums of requests and GPU time over days of a time zone, the comparison with sacct, and export."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from bouchet_core.policy import BudgetUnit
from bouchet_core.policy.weekly import period_at
from bouchet_core.tasks import TaskName
from bouchet_core.usage import UsageSummary
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bouchet_api.dependencies import AppState, StateDep
from bouchet_api.ledger.accounting_views import (
    MOST_DIFFERENCES,
    AccountingSummary,
    JobDifference,
    compare_with_accounting,
    job_differences,
)
from bouchet_api.ledger.consumer import waiting_entries
from bouchet_api.ledger.export import MEDIA_TYPES, ExportFormat, ExportTable, export_rows, render_csv
from bouchet_api.ledger.gpu_views import (
    MOST_JOBS,
    GpuBy,
    GpuSummary,
    summarize_gpu_time,
    table_of_gpu_time,
    total_gpu_time,
)
from bouchet_api.ledger.periods import DateRange, find_zone, make_range
from bouchet_api.ledger.request_views import (
    RequestsBy,
    last_requests,
    summarize_requests,
    table_of,
    total_requests,
)
from bouchet_api.openapi import examples

router = APIRouter(prefix="/v1/ledger", tags=["usage"])

# of one sacct query for all jobs
ACCOUNTING_WAIT_S = 40.0
CSV_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"example": "name,requests\nalice,42\n"}}, "description": "JSON, or CSV if asked for"}
}


def find_range(
    zone: Annotated[str, Query(max_length=60, description="IANA time zone whose days count")] = "UTC",
    first: Annotated[str | None, Query(alias="from", max_length=10, description="first day, as 2026-11-01")] = None,
    last: Annotated[str | None, Query(alias="to", max_length=10, description="last day, included")] = None,
    month: Annotated[str | None, Query(max_length=7, description="a month, as 2026-11, instead of both")] = None,
) -> DateRange:
    """Return the range of days that the request names; the last 30 days by default."""
    return make_range(zone, first, last, month, datetime.now(UTC))


RangeDep = Annotated[DateRange, Depends(find_range)]
CsvQuery = Annotated[bool, Query(description="answer with CSV")]


class LedgerReport(BaseModel):
    """Sums of requests over whole days, by one dimension."""

    by: RequestsBy
    first: str = Field(description="first day")
    last: str = Field(description="last day, included")
    zone: str
    lines: list[UsageSummary]
    total: UsageSummary


class GpuReport(BaseModel):
    """GPU time over whole days, by one dimension, and how it compares with sacct."""

    by: GpuBy
    first: str = Field(description="first day")
    last: str = Field(description="last day, included")
    zone: str
    lines: list[GpuSummary] = Field(
        description=f"by job: those with the most hours, and one line for the others beyond {MOST_JOBS}; CSV has all"
    )
    total: GpuSummary
    accounting: AccountingSummary


class BudgetReport(BaseModel):
    """What is left of the installation's budget (BOUCHET_BUDGET) in its present period, by the ledger."""

    budget: str | None = Field(description="as it was set; null without one")
    period: str = ""
    unit: str = Field(default="", description="GPU hours, or the site's charge unit")
    limit: float = 0.0
    used: float = 0.0
    left: float = 0.0
    ends_at: datetime | None = Field(default=None, description="when it begins again")


class AccountingReport(BaseModel):
    """How single jobs compare with sacct."""

    total: AccountingSummary
    jobs: list[JobDifference] = Field(description="those that differ the most first")


class RequestList(BaseModel):
    """The last requests, newest first. None of them contains a prompt, an answer or a key."""

    requests: list[dict[str, Any]]


class LedgerStatus(BaseModel):
    """Whether the ledger works."""

    problem: str = Field(description="why nothing is written at the moment; empty while all is well")
    database: str
    waiting: int | None = Field(description="entries in Redis that are in no ledger yet; null if Redis is away")
    lost: int = Field(description="entries that Redis had to drop before they were read, since the API started")
    keep_days: int = Field(description="how long single requests are kept; sums are kept for ever")


@router.get("", response_model=LedgerReport, responses=CSV_RESPONSE)
def get_ledger(
    state: StateDep,
    span: RangeDep,
    by: Annotated[RequestsBy, Query(description="what to group by")] = RequestsBy.KEY,
    csv: CsvQuery = False,
) -> Any:
    """Return requests, tokens, speed and errors by person, model, agent or over time."""
    with state.ledger.database.read() as connection:
        lines = summarize_requests(connection, by, span)
        if csv:
            return csv_response(f"usage-by-{by}-{span.first}", *table_of(lines))
        total = total_requests(connection, span)
    return LedgerReport(by=by, **days_of(span), lines=lines, total=total)


@router.get("/gpu", response_model=GpuReport, responses=CSV_RESPONSE)
def get_gpu_time(
    state: StateDep,
    span: RangeDep,
    by: Annotated[GpuBy, Query(description="what to group by")] = GpuBy.MODEL,
    csv: CsvQuery = False,
) -> Any:
    """Return GPU hours (starting, serving, idle, draining) and charge by model, GPU type, account or over time."""
    now = datetime.now(UTC).timestamp()
    with state.ledger.database.read() as connection:
        table = summarize_gpu_time(connection, by, span, now, None if csv else MOST_JOBS)
        if csv:
            return csv_response(f"gpu-hours-by-{by}-{span.first}", *table_of_gpu_time(table.lines))
        accounting = compare_with_accounting(connection, span)
    return GpuReport(by=by, **days_of(span), lines=table.lines, total=table.total, accounting=accounting)


@router.get("/budget")
def get_budget(
    state: StateDep,
    zone: Annotated[str, Query(max_length=60, description="IANA time zone whose days count")] = "UTC",
) -> BudgetReport:
    """Return what is used and left of the installation's budget."""
    budget, now = state.budget, datetime.now(UTC)
    if budget is None:
        return BudgetReport(budget=None)
    tz = find_zone(zone)
    period = period_at(budget.period, now, str(tz))
    days = DateRange(period.start.astimezone(tz).date(), now.astimezone(tz).date(), tz)
    with state.ledger.database.read() as connection:
        total = total_gpu_time(connection, days, now.timestamp())
    is_hours = budget.unit is BudgetUnit.GPU_HOURS
    used = total.gpu_hours if is_hours else total.charge or 0.0
    return BudgetReport(
        budget=str(budget),
        period=budget.period,
        unit="GPU hours" if is_hours else state.site.charge_unit,
        limit=budget.amount,
        used=used,
        left=max(0.0, round(budget.amount - used, 4)),
        ends_at=period.end,
    )


@router.get("/requests", responses={200: {"content": {"application/json": {"example": examples.REQUEST_LIST}}}})
def list_requests(
    state: StateDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    failed: Annotated[bool, Query(description="only those with an error")] = False,
) -> RequestList:
    """Return the last requests one by one, newest first."""
    with state.ledger.database.read() as connection:
        return RequestList(requests=last_requests(connection, limit, failed=failed))


@router.get("/accounting")
def get_accounting(
    state: StateDep, span: RangeDep, limit: Annotated[int, Query(ge=1, le=1000)] = MOST_DIFFERENCES
) -> AccountingReport:
    """Return how the GPU time of jobs compares with sacct, as it was asked last."""
    with state.ledger.database.read() as connection:
        total, jobs = compare_with_accounting(connection, span), job_differences(connection, span, limit)
    return AccountingReport(total=total, jobs=jobs)


@router.post("/accounting", responses={200: {"content": {"application/json": {"example": {"jobs": 3}}}}})
def compare_accounting(state: StateDep) -> dict[str, int]:
    """Ask sacct about all jobs of the last days now, instead of in the coming night."""
    return {"jobs": int(state.tasks.query(TaskName.COMPARE_ACCOUNTING, wait_s=ACCOUNTING_WAIT_S))}


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/csv": {"example": "id,at,key\n"}, "application/x-ndjson": {"example": '{"id": "1-0"}\n'}},
            "description": "one row a line",
        }
    },
)
def export_table(
    state: StateDep,
    span: RangeDep,
    table: Annotated[ExportTable, Query(description="what to export")] = ExportTable.REQUESTS,
    written_as: Annotated[ExportFormat, Query(alias="format")] = ExportFormat.CSV,
) -> StreamingResponse:
    """Export rows as CSV or JSON lines."""
    state.ledger.database.engine()
    rows = export_rows(state.ledger.database, table, span, written_as)
    name = f"{table}-{span.first}-{span.last}.{written_as}"
    return StreamingResponse(rows, media_type=MEDIA_TYPES[written_as], headers=_attachment(name))


@router.get("/status")
def get_ledger_status(state: StateDep) -> LedgerStatus:
    """Return whether the ledger works, and how many entries wait for it."""
    return ledger_status(state)


def ledger_status(state: AppState) -> LedgerStatus:
    """Return the state of the ledger; asks the database and Redis."""
    ledger = state.ledger
    return LedgerStatus(
        problem=ledger.database.problem() or ledger.consumer.problem,
        database=ledger.database.shown,
        waiting=waiting_entries(state.store),
        lost=ledger.consumer.counts.lost,
        keep_days=ledger.consumer.keep_days,
    )


def days_of(span: DateRange) -> dict[str, str]:
    """Return the range as a report names it."""
    return {"first": span.first.isoformat(), "last": span.last.isoformat(), "zone": str(span.zone)}


def csv_response(name: str, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Response:
    """Return a table as a file."""
    return Response(
        render_csv(names, rows), media_type=MEDIA_TYPES[ExportFormat.CSV], headers=_attachment(f"{name}.csv")
    )


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
