"""The internal API: HTTP on the private network, for the worker and the API (bouchet_core.gateway_client).

Each of them has a token of its own, which opens what that service does and nothing else.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Annotated

from bouchet_core.errors import BouchetError, NotAllowedError
from bouchet_core.tunnel import HostKeyForgetRequest, HostKeyTrustRequest, PromptAnswer, TunnelStatus
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from .errors import BAD_GATEWAY, HTTP_STATUS, BadRequestError, UnauthorizedError, problem_document
from .remote_commands import RemoteCommands
from .slots.forward import SlotForwarder
from .ssh.tunnel import Tunnel

MAX_READ_BYTES = 16 << 20

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Role(StrEnum):
    """The service that a token belongs to. The API looks, answers and trusts; the worker runs programs and writes."""

    API = "api"
    WORKER = "worker"


class RunRequest(BaseModel):
    """A program and its arguments; never a command line."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    argv: list[str] = Field(min_length=1, max_length=1000)
    stdin: str | None = None
    timeout_s: float = Field(30.0, gt=0)


class RunResponse(BaseModel):
    """The result of the program. `truncated`: its output exceeded the limit and was cut."""

    exit_status: int
    stdout: str
    stderr: str
    truncated: bool


class InternalApi:
    """The endpoints of the internal API."""

    def __init__(
        self,
        tunnel: Tunnel,
        commands: RemoteCommands,
        forwarder: SlotForwarder,
        tokens: Mapping[Role, str],
        file_bytes: int,
    ) -> None:
        self._tunnel, self._commands, self._forwarder = tunnel, commands, forwarder
        self._tokens = {role: token.encode() for role, token in tokens.items()}
        self._file_bytes = file_bytes

    def app(self, lifespan: Lifespan | None = None) -> FastAPI:
        """Return the ASGI application; `lifespan` starts and stops what runs as long as it does."""
        app = FastAPI(title="bouchet-llm gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/healthz", _health, methods=["GET"])
        app.include_router(self._router())
        app.add_exception_handler(BouchetError, _on_error)
        app.add_exception_handler(RequestValidationError, _on_invalid)
        return app

    def _router(self) -> APIRouter:
        router = APIRouter(prefix="/v1")
        worker, api, both = ([Depends(self._only(*roles))] for roles in ((Role.WORKER,), (Role.API,), tuple(Role)))
        router.add_api_route("/run", self.run, methods=["POST"], dependencies=worker)
        router.add_api_route("/files", self.put_file, methods=["PUT"], status_code=204, dependencies=worker)
        router.add_api_route("/files", self.get_file, methods=["GET"], response_class=Response, dependencies=both)
        router.add_api_route("/status", self.status, methods=["GET"], dependencies=both)
        router.add_api_route("/answer", self.answer, methods=["POST"], status_code=202, dependencies=api)
        router.add_api_route("/connect", self.connect, methods=["POST"], status_code=202, dependencies=api)
        router.add_api_route("/trust", self.trust, methods=["POST"], status_code=202, dependencies=api)
        router.add_api_route("/forget", self.forget, methods=["POST"], status_code=202, dependencies=api)
        return router

    async def run(self, body: RunRequest) -> RunResponse:
        """Run a program of the allowlist on the login node."""
        done = await self._commands.run(body.argv, body.stdin, body.timeout_s)
        return RunResponse(
            exit_status=done.exit_status, stdout=done.stdout, stderr=done.stderr, truncated=done.truncated
        )

    async def put_file(
        self, request: Request, path: str, mode: Annotated[str, Query(pattern="^[0-7]{3,4}$")] = "600"
    ) -> Response:
        """Write the request's body to a file, whole or not at all."""
        data = await _read_body(request.stream(), self._file_bytes)
        await self._commands.put(path, data, int(mode, 8))
        return Response(status_code=204)

    async def get_file(
        self,
        request: Request,
        path: str,
        offset: int = 0,
        max_bytes: Annotated[int, Query(ge=0, le=MAX_READ_BYTES)] = 1 << 20,
    ) -> Response:
        """Return a part of a file; a negative offset counts from its end. The API reads the logs of jobs only."""
        logs_only = self._role_of(request) is Role.API
        data, size = await self._commands.get(path, offset, max_bytes, logs_only=logs_only)
        return Response(data, media_type="application/octet-stream", headers={"X-File-Size": str(size)})

    async def status(self) -> TunnelStatus:
        """Return the tunnel's status, and the traffic of the slots."""
        traffic = self._forwarder.traffic
        status = self._tunnel.status(self._commands.running + self._forwarder.channels)
        return status.model_copy(update={"bytes_up": traffic.up, "bytes_down": traffic.down})

    async def answer(self, body: PromptAnswer) -> Response:
        """Pass a person's answers on to the SSH server."""
        self._tunnel.broker.answer(body.prompt_id, body.responses)
        return Response(status_code=202)

    async def trust(self, body: HostKeyTrustRequest) -> Response:
        """Accept the host key that the server presented."""
        self._tunnel.trust(body.fingerprint)
        return Response(status_code=202)

    async def forget(self, body: HostKeyForgetRequest) -> Response:
        """Remove the host keys that were accepted for a host."""
        self._tunnel.forget(body.place)
        return Response(status_code=202)

    async def connect(self) -> Response:
        """Try to connect now instead of at the end of the back-off."""
        self._tunnel.connect_now()
        return Response(status_code=202)

    def _only(self, *roles: Role) -> Callable[[Request], Awaitable[None]]:
        """Return the check that lets the tokens of these services pass."""

        async def check(request: Request) -> None:
            role = self._role_of(request)
            if role not in roles:
                what = f"{request.method} {request.url.path}"
                raise NotAllowedError(f"the {role}'s token does not open {what}, only the {roles[0]}'s does")

        return check

    def _role_of(self, request: Request) -> Role:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        matches = {role: hmac.compare_digest(given.encode(), token) for role, token in self._tokens.items()}
        role = next((role for role, matched in matches.items() if matched), None)
        if scheme.lower() != "bearer" or role is None:
            raise UnauthorizedError("the gateway's token is missing or wrong")
        return role


async def _health() -> dict[str, str]:
    """Report that the process is alive, whatever the state of the tunnel."""
    return {"status": "ok"}


async def _read_body(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise BadRequestError(f"the file is over {limit >> 20} MiB, the gateway's limit")
    return bytes(data)


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    kind = error.kind if isinstance(error, BouchetError) else "error"
    return _problem(HTTP_STATUS.get(kind, BAD_GATEWAY), kind, str(error))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    """Name the field and the fault, never the input: it may be a passcode."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = "; ".join(f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}" for p in problems)
    return _problem(422, "bad_request", detail)


def _problem(status: int, kind: str, detail: str) -> JSONResponse:
    return JSONResponse(problem_document(status, kind, detail), status, media_type="application/problem+json")
