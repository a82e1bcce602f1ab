"""What holds for every request: query parameters that the path has, and HEAD wherever there is GET."""

from __future__ import annotations

import asyncio
import difflib
from contextlib import suppress

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# paths of programs; a browser may add what it likes to the dashboard's address
PREFIX = "/v1/"


async def check_query(request: Request) -> None:
    """Raise RequestValidationError for a query parameter that the path does not have."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not request.url.path.startswith(PREFIX):
        return
    known = sorted(field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query))
    errors = [
        {"type": "unknown_parameter", "loc": ("query", name), "msg": _unknown(name, known), "input": None}
        for name in request.query_params
        if name not in known
    ]
    if errors:
        raise RequestValidationError(errors)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"unknown parameter; did you mean `{near[0]}`?"
    return f"unknown parameter; this path takes {', '.join(f'`{other}`' for other in known) or 'none'}"


class HeadMiddleware:
    """ASGI middleware that answers HEAD as GET without the body; a stream ends with its head."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as GET where it is HEAD."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()

        handling = asyncio.ensure_future(self.app({**scope, "method": "GET"}, receive, send_head))
        waiting = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait((handling, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not answered.is_set():
                await handling
        finally:
            waiting.cancel()
            handling.cancel()
            with suppress(asyncio.CancelledError):
                await handling
