"""The application: routes, door and errors put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bouchet_core.deployments import LaunchRequest
from bouchet_core.downloads import DownloadRequest
from bouchet_core.errors import BouchetError
from bouchet_core.images import ImageRequest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from .auth import Door
from .dependencies import Parts
from .openapi.document import DescribedApi
from .problems import TITLES, problem, problem_of, problem_response
from .routes import (
    deployments,
    doctor,
    downloads,
    health,
    images,
    keys,
    metrics,
    models,
    orphans,
    streams,
    tunnel,
    usage,
)
from .routes import tasks as tasks
from .routes.keys import KeyRequest
from .routes.tunnel import Answer
from .validation_messages import field_problems, in_one_line
from .version import VERSION

log = logging.getLogger(__name__)

# threads for what event and log streams ask of Redis and the gateway; a waiting stream holds none
STREAM_THREADS = 32
KNOWN_FIELDS = (
    *LaunchRequest.model_fields,
    *DownloadRequest.model_fields,
    *ImageRequest.model_fields,
    *Answer.model_fields,
    *KeyRequest.model_fields,
)
ABOUT = (
    "Launches models on a Slurm cluster and says how they are doing. Every path but /healthz needs BOUCHET_API_KEY, "
    "as `Authorization: Bearer` or `x-api-key`. Errors are application/problem+json."
)


def create_app(parts: Parts, key: str) -> FastAPI:
    """The API over these parts. `key` opens it."""
    app = DescribedApi(
        title="bouchet-llm",
        version=VERSION,
        description=ABOUT,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
        strict_content_type=False,  # some clients name none; pages of other sites are kept out by the door
    )
    app.state.parts = parts
    # streams before deployments, whose names may hold a slash
    for module in (
        health,
        metrics,
        streams,
        downloads,
        images,
        deployments,
        orphans,
        tasks,
        models,
        tunnel,
        doctor,
        keys,
        usage,
    ):
        app.include_router(module.router)
    app.add_exception_handler(BouchetError, _known)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)
    app.add_middleware(Door, key=key)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(STREAM_THREADS, "stream"))
    watch = asyncio.create_task(app.state.parts.bell.watch())
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _known(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, BouchetError)
    found = problem_of(exc)
    if found.status >= 500:
        log.warning("%s: %s", exc.kind, exc)
    return problem_response(found)


async def _unreadable(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors: list[dict[str, Any]] = list(exc.errors())
    fields = field_problems(errors, KNOWN_FIELDS)
    status = 400 if any(error["type"] == "json_invalid" for error in errors) else 422
    return problem_response(problem(status, "bad_request", in_one_line(fields), fields))


async def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == 404:
        found = problem(404, "not_found", f"no path {request.url.path}; GET /openapi.json lists them")
    elif exc.status_code == 405:
        found = problem(405, "method_not_allowed", f"{request.method} is not for this path; see /openapi.json")
    else:
        found = problem(exc.status_code if exc.status_code in TITLES else 400, "bad_request", str(exc.detail))
    return problem_response(found, exc.headers)


async def _unforeseen(_: Request, __: Exception) -> Response:
    # the server logs it, with its trace
    return problem_response(problem(500, "internal", "an error nobody foresaw; `make logs` shows it"))
