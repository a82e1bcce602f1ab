"""/healthz, /metrics and /v1/doctor: the state of the stack, for Compose, Prometheus and people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from bouchet_core.doctor import DoctorReport
from bouchet_core.errors import GatewayError
from bouchet_core.tasks import HEARTBEAT
from bouchet_core.tunnel import TunnelStatus
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from bouchet_api.dependencies import AppState, StateDep
from bouchet_api.doctor import run_checks
from bouchet_api.ledger import LedgerUnavailableError
from bouchet_api.ledger.consumer import waiting_entries
from bouchet_api.ledger.gpu_views import GpuSummary, total_gpu_time
from bouchet_api.ledger.periods import make_range
from bouchet_api.metrics import CONTENT_TYPE, MetricsSnapshot, render_metrics
from bouchet_api.openapi import examples

router = APIRouter(tags=["health"])

METRICS_EXAMPLE = "# HELP bouchet_worker_alive Whether the worker's loop runs\nbouchet_worker_alive 1.0\n"


class ApiHealth(BaseModel):
    """The API and Redis answer."""

    status: Literal["ok"] = "ok"
    redis: Literal["ok"] = "ok"


@router.get("/healthz")
def healthz(state: StateDep) -> ApiHealth:
    """Return 200 when Redis answers too, else 503. The only path without a key."""
    state.store.ping()
    return ApiHealth()


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": METRICS_EXAMPLE}}}},
)
def get_metrics(state: StateDep) -> Response:
    """Return metrics of deployments, jobs with their vLLM, ledger and tunnel; the proxy has those of requests."""
    now = datetime.now(UTC)
    ledger_works, gpu_today = _gpu_today(state, now)
    snapshot = MetricsSnapshot(
        records=state.store.live(),
        figures=state.store.figures.current(now),
        tunnel=_tunnel(state),
        worker_alive=state.store.beats(HEARTBEAT),
        ledger_works=ledger_works,
        waiting_entries=waiting_entries(state.store),
        lost_entries=state.ledger.consumer.counts.lost,
        gpu_today=gpu_today,
    )
    return Response(render_metrics(snapshot), media_type=CONTENT_TYPE)


@router.get("/v1/doctor", responses={200: {"content": {"application/json": {"example": examples.DOCTOR_REPORT}}}})
def get_doctor_report(request: Request, state: StateDep) -> DoctorReport:
    """Check the stack, the SSH connection and the cluster; takes some seconds.

    Whatever is down is a failed check, not an error of this request.
    """
    return DoctorReport(version=request.app.version, checks=tuple(run_checks(state)))


def _gpu_today(state: AppState, now: datetime) -> tuple[bool, GpuSummary | None]:
    """Return whether the ledger works, and the GPU time of this UTC day."""
    try:
        with state.ledger.database.read() as connection:
            today = make_range("UTC", None, None, None, now, default_days=1)
            return not state.ledger.consumer.problem, total_gpu_time(connection, today, now.timestamp())
    except LedgerUnavailableError:
        return False, None


def _tunnel(state: AppState) -> TunnelStatus | None:
    try:
        return state.tunnel()
    except GatewayError:
        return None
