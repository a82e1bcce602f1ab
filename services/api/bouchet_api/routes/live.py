"""GET /v1/live: what the dashboard and `bouchet top` show, as one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bouchet_core.errors import BouchetError
from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from bouchet_api.dashboard.live import LiveView
from bouchet_api.problems import problem_of

router = APIRouter(tags=["dashboard"])


@router.get("/v1/live", response_class=EventSourceResponse)
async def stream_live_view(request: Request) -> AsyncIterator[ServerSentEvent]:
    """Stream what the dashboard shows: first all of it, then each part that changes, without end.

    Events are named by their part: `history` (points of the last hour, once), `points` (the newest ones), `status`
    (deployments, connection, services), `requests` (open requests and the last errors), `problem` (null when all parts
    can be read), `clock` (the time here in Unix seconds, every ten seconds). They have no id: a stream that is opened
    again begins with all parts.
    """
    view: LiveView = request.app.state.bouchet.live_view
    try:
        async for part, text in view.watch():
            yield ServerSentEvent(event=part, raw_data=text)
    except BouchetError as exc:
        yield ServerSentEvent(event="problem", data=problem_of(exc))
