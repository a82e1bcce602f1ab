"""GET /metrics: deployments and the tunnel for Prometheus, with the owner's key as a bearer token."""

from __future__ import annotations

from bouchet_core.errors import GatewayError
from bouchet_core.tunnel import TunnelStatus
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from bouchet_api.dependencies import Parts, PartsDep
from bouchet_api.metrics import CONTENT_TYPE, render

router = APIRouter(tags=["health"])
WORKER = "worker"
EXAMPLE = "# HELP bouchet_worker_alive Whether the worker's loop runs\nbouchet_worker_alive 1.0\n"


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": EXAMPLE}}}},
)
def metrics(parts: PartsDep) -> Response:
    """Prometheus' text format. Requests and tokens are on the proxy's own /metrics."""
    live = parts.store.live()
    text = render((record.phase for record in live), _tunnel(parts), worker_alive=parts.store.beats(WORKER))
    return Response(text, media_type=CONTENT_TYPE)


def _tunnel(parts: Parts) -> TunnelStatus | None:
    try:
        return parts.gateway.status()
    except GatewayError:
        return None
