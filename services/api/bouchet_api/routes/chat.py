"""POST /v1/chat: try a ready model from the dashboard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from bouchet_core.errors import BouchetError
from fastapi import APIRouter, Body
from fastapi.sse import EventSourceResponse, ServerSentEvent

from bouchet_api.dashboard.chat import ChatRequest
from bouchet_api.dependencies import StateDep
from bouchet_api.openapi import examples
from bouchet_api.problems import problem_of

router = APIRouter(tags=["dashboard"])


@router.post("/v1/chat", response_class=EventSourceResponse)
async def stream_chat(
    state: StateDep, request: Annotated[ChatRequest, Body(openapi_examples=examples.CHAT)]
) -> AsyncIterator[ServerSentEvent]:
    """Stream a model's answer, in the events of OpenAI's chat endpoint. It ends when the client hangs up.

    An event named `problem` is the last one, and says why there is no more.
    """
    try:
        async for event in state.chat.stream(request):
            yield ServerSentEvent(raw_data=event)
    except BouchetError as exc:
        yield ServerSentEvent(event="problem", data=problem_of(exc))
