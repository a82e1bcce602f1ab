"""GET /usage: the month for the head of a group, as a page that prints well. It needs the key like every other path."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from bouchet_api.dependencies import StateDep
from bouchet_api.ledger.accounting_views import compare_with_accounting
from bouchet_api.ledger.gpu_views import GpuBy, summarize_gpu_time
from bouchet_api.ledger.page import HEADERS, MonthReport, render_page
from bouchet_api.ledger.periods import make_range
from bouchet_api.ledger.request_views import RequestsBy, summarize_requests, total_requests

router = APIRouter(tags=["usage"])

PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {"example": "<!doctype html><title>Usage of language models</title>"}}}
}


@router.get("/usage", response_class=HTMLResponse, responses=PAGE)
def get_usage_page(
    state: StateDep,
    month: Annotated[str | None, Query(max_length=7, description="a month, as 2026-11; by default this one")] = None,
    zone: Annotated[str, Query(max_length=60, description="IANA time zone whose days count")] = "UTC",
) -> HTMLResponse:
    """Return the page: people, models, days, GPU hours and charge of a month."""
    now = datetime.now(UTC)
    today = make_range(zone, None, None, None, now, default_days=1)
    span = make_range(zone, None, None, month or f"{today.first:%Y-%m}", now)
    with state.ledger.database.read() as connection:
        gpu_models = summarize_gpu_time(connection, GpuBy.MODEL, span, now.timestamp())
        report = MonthReport(
            site=state.site.title or state.site.name,
            span=span,
            made_at=now,
            people=summarize_requests(connection, RequestsBy.KEY, span),
            models=summarize_requests(connection, RequestsBy.MODEL, span),
            days=summarize_requests(connection, RequestsBy.DAY, span),
            total=total_requests(connection, span),
            gpu_models=gpu_models.lines,
            gpu_types=summarize_gpu_time(connection, GpuBy.GPU_TYPE, span, now.timestamp()).lines,
            gpu_total=gpu_models.total,
            accounting=compare_with_accounting(connection, span),
            money=state.site.money(gpu_models.total.charge),
        )
    return HTMLResponse(render_page(report), headers=HEADERS)
