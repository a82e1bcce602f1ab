"""/healthz, /metrics and /v1/doctor: the state of the stack, for Compose, Prometheus and people."""

from __future__ import annotations

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
from bouchet_api.metrics import CONTENT_TYPE, render_metrics
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
    """Return metrics of deployments and the tunnel in Prometheus' text format; the proxy has those of requests."""
    phases = (record.phase for record in state.store.live())
    page = render_metrics(phases, _tunnel(state), worker_alive=state.store.beats(HEARTBEAT))
    return Response(page, media_type=CONTENT_TYPE)


@router.get("/v1/doctor", responses={200: {"content": {"application/json": {"example": examples.DOCTOR_REPORT}}}})
def get_doctor_report(request: Request, state: StateDep) -> DoctorReport:
    """Check the stack, the SSH connection and the cluster; takes some seconds.

    Whatever is down is a failed check, not an error of this request.
    """
    return DoctorReport(version=request.app.version, checks=tuple(run_checks(state)))


def _tunnel(state: AppState) -> TunnelStatus | None:
    try:
        return state.tunnel()
    except GatewayError:
        return None
