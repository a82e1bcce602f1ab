"""The FastAPI application: routers, authentication and error handlers put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bouchet_core.batch_jobs import DownloadRequest
from bouchet_core.config.hub_models import HubModelRequest
from bouchet_core.deployments import LaunchRequest
from bouchet_core.errors import BouchetError
from bouchet_core.images import ImageRequest
from bouchet_core.tunnel import PromptAnswer
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from .auth import AuthMiddleware
from .dashboard import pages
from .dashboard.sessions import SessionBook
from .dashboard.sign_outs import SignOuts
from .dependencies import AppState
from .openapi.document import DescribedApi
from .problems import TITLES, field_problems, in_one_line, problem, problem_of, problem_response
from .request_rules import HeadMiddleware, check_query
from .routes import (
    chat,
    deployments,
    downloads,
    health,
    images,
    keys_and_usage,
    ledger,
    live,
    models,
    notifications,
    recovery,
    session,
    status,
    streams,
    tunnel,
    usage_page,
)
from .routes.keys_and_usage import ApiKeyRequest

log = logging.getLogger(__name__)

# all packages of the project share one version; the CLI compares it with its own
VERSION = "0.1.0"
# threads for the Redis and gateway calls of event and log streams; a waiting stream holds no thread
STREAM_THREADS = 32
# streams come before deployments, whose names may contain a slash
ROUTERS = (
    pages.router,
    session.router,
    health.router,
    status.router,
    streams.router,
    live.router,
    chat.router,
    downloads.router,
    images.router,
    deployments.router,
    recovery.router,
    models.router,
    tunnel.router,
    notifications.router,
    keys_and_usage.router,
    ledger.router,
    usage_page.router,
)
KNOWN_FIELDS = (
    *LaunchRequest.model_fields,
    *DownloadRequest.model_fields,
    *ImageRequest.model_fields,
    *HubModelRequest.model_fields,
    *PromptAnswer.model_fields,
    *ApiKeyRequest.model_fields,
    *session.SignInRequest.model_fields,
)
DESCRIPTION = (
    "Launch models on a Slurm cluster and follow their state. Every path except /healthz needs BOUCHET_ADMIN_KEY, "
    "as `Authorization: Bearer` or `x-api-key`; `GET /` is the dashboard, where a browser signs in. "
    "Errors are application/problem+json."
)


def create_app(state: AppState, key: str) -> FastAPI:
    """Return the ASGI application over this state; `key` is the only key that it accepts."""
    app = DescribedApi(
        title="bouchet-llm",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
        lifespan=_lifespan,
        dependencies=[Depends(check_query)],
        strict_content_type=False,  # some clients send none; AuthMiddleware rejects pages of other sites
    )
    app.state.bouchet = state
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(BouchetError, _handle_known_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(Exception, _handle_unexpected_error)
    app.state.sessions = SessionBook(key, SignOuts(state.store.sign_outs))
    app.add_middleware(AuthMiddleware, sessions=app.state.sessions)
    app.add_middleware(StopMiddleware)
    app.add_middleware(HeadMiddleware)
    return app


class StopMiddleware:
    """ASGI middleware that ends streams without a traceback: the server cancels those that are open when it stops."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            log.info("%s was ended, as the API stops", scope["path"])


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(STREAM_THREADS, "stream"))
    watch = asyncio.create_task(app.state.bouchet.notifier.watch())
    consumer = app.state.bouchet.ledger.consumer
    consumer.start()
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.to_thread(consumer.stop)
        await asyncio.to_thread(app.state.sessions.sign_outs.close)
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _handle_known_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, BouchetError)
    found = problem_of(exc)
    if found.status >= 500:
        log.warning("%s: %s", exc.kind, exc)
    return problem_response(found)


async def _handle_invalid_request(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors: list[dict[str, Any]] = list(exc.errors())
    fields = field_problems(errors, KNOWN_FIELDS)
    code = 400 if any(error["type"] == "json_invalid" for error in errors) else 422
    return problem_response(problem(code, "bad_request", in_one_line(fields), fields))


async def _handle_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == 404:
        found = problem(404, "not_found", f"no path {request.url.path}; GET /openapi.json lists all paths")
    elif exc.status_code == 405:
        detail = f"{request.method} is not supported on this path; see GET /openapi.json"
        found = problem(405, "method_not_allowed", detail)
        return problem_response(found, {"Allow": ", ".join(allowed_methods(request))})
    else:
        found = problem(exc.status_code if exc.status_code in TITLES else 400, "bad_request", str(exc.detail))
    return problem_response(found, exc.headers)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods of the request's path, sorted. Starlette names those of the first route of that path only."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    # a path without parameters is not also the other one that its last word fits: /v1/images/jobs, /v1/images/{pin}
    exact = [route for route in found if not route.param_convertors]
    return sorted({method for route in exact or found for method in route.methods or ()})


async def _handle_unexpected_error(_: Request, __: Exception) -> Response:
    # uvicorn logs the traceback
    return problem_response(problem(500, "internal", "internal error; `make logs` shows the traceback"))
