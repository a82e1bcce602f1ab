"""The inside door: HTTP on the private network for the other rooms. Its other side: bouchet_core.gateway_client."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated

from bouchet_core.errors import BouchetError
from bouchet_core.tunnel import TunnelStatus
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from .errors import BadRequestError
from .remote_commands import Cluster
from .slots.forward import Forwards
from .ssh.prompts import PromptBroker
from .ssh.tunnel import Tunnel

STATUS_OF_KIND = {
    "tunnel_down": 503,
    "human_needed": 503,
    "cluster_unavailable": 503,
    "store_unavailable": 503,
    "command_timeout": 504,
    "file_missing": 404,
    "not_allowed": 403,
    "remote_refused": 502,
    "stale_prompt": 409,
    "host_key_not_trusted": 409,
    "bad_request": 400,
}
MAX_CHUNK = 16 << 20

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class RunBody(_Body):
    """A program and its words; never a command line."""

    argv: list[str] = Field(min_length=1, max_length=1000)
    stdin: str | None = None
    timeout_s: float = Field(30.0, gt=0)


class RunAnswer(BaseModel):
    """What became of the program. `truncated`: the output limit cut something."""

    exit_status: int
    stdout: str
    stderr: str
    truncated: bool


class AnswerBody(_Body):
    """A person's answers to the open prompt, in its questions' order."""

    prompt_id: str
    responses: list[str] = Field(max_length=20)


class TrustBody(_Body):
    """The fingerprint of the host key that a person accepts."""

    fingerprint: str = Field(min_length=1, max_length=200)


class ForgetBody(_Body):
    """A host, as known_hosts writes it."""

    place: str = Field(min_length=1, max_length=300)


class Door:
    """The endpoints, over the parts that do the work."""

    def __init__(
        self, tunnel: Tunnel, cluster: Cluster, forwards: Forwards, broker: PromptBroker, token: str, file_bytes: int
    ) -> None:
        self._tunnel, self._cluster, self._forwards, self._broker = tunnel, cluster, forwards, broker
        self._token, self._file_bytes = token.encode(), file_bytes

    def app(self, lifespan: Lifespan | None = None) -> FastAPI:
        """The ASGI application; `lifespan` starts and stops what lives as long as it."""
        app = FastAPI(title="bouchet-llm gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/healthz", _alive, methods=["GET"])
        app.include_router(self._router())
        app.add_exception_handler(BouchetError, _on_error)
        app.add_exception_handler(RequestValidationError, _on_invalid)
        return app

    def _router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", dependencies=[Depends(self._authorize)])
        router.add_api_route("/run", self.run, methods=["POST"])
        router.add_api_route("/files", self.put_file, methods=["PUT"], status_code=204)
        router.add_api_route("/files", self.get_file, methods=["GET"], response_class=Response)
        router.add_api_route("/status", self.status, methods=["GET"])
        router.add_api_route("/answer", self.answer, methods=["POST"], status_code=202)
        router.add_api_route("/connect", self.connect, methods=["POST"], status_code=202)
        router.add_api_route("/trust", self.trust, methods=["POST"], status_code=202)
        router.add_api_route("/forget", self.forget, methods=["POST"], status_code=202)
        return router

    async def run(self, body: RunBody) -> RunAnswer:
        """Runs a program of the allow-list on the login node."""
        done = await self._cluster.run(body.argv, body.stdin, body.timeout_s)
        return RunAnswer(exit_status=done.exit_status, stdout=done.stdout, stderr=done.stderr, truncated=done.truncated)

    async def put_file(
        self, request: Request, path: str, mode: Annotated[str, Query(pattern="^[0-7]{3,4}$")] = "600"
    ) -> Response:
        """Writes a file whole or not at all; the body is its bytes."""
        data = await _limited(request.stream(), self._file_bytes)
        await self._cluster.put(path, data, int(mode, 8))
        return Response(status_code=204)

    async def get_file(
        self, path: str, offset: int = 0, max_bytes: Annotated[int, Query(ge=0, le=MAX_CHUNK)] = 1 << 20
    ) -> Response:
        """A piece of a file; a negative offset counts from its end."""
        data, size = await self._cluster.get(path, offset, max_bytes)
        return Response(data, media_type="application/octet-stream", headers={"X-File-Size": str(size)})

    async def status(self) -> TunnelStatus:
        """What the tunnel is doing."""
        traffic = self._forwards.traffic
        status = self._tunnel.status(self._cluster.running + self._forwards.channels)
        return status.model_copy(update={"bytes_up": traffic.up, "bytes_down": traffic.down})

    async def answer(self, body: AnswerBody) -> Response:
        """Hands a person's answers to the SSH server."""
        self._broker.answer(body.prompt_id, body.responses)
        return Response(status_code=202)

    async def trust(self, body: TrustBody) -> Response:
        """Accepts the host key that the server showed."""
        self._tunnel.trust(body.fingerprint)
        return Response(status_code=202)

    async def forget(self, body: ForgetBody) -> Response:
        """Forgets the host keys that were accepted for a host."""
        self._tunnel.forget(body.place)
        return Response(status_code=202)

    async def connect(self) -> Response:
        """Tries now instead of at the end of the back-off."""
        self._tunnel.connect_now()
        return Response(status_code=202)

    async def _authorize(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
            raise UnauthorizedError("the gateway's token is missing or wrong")


class UnauthorizedError(BouchetError):
    """No token, or not ours."""

    kind = "unauthorized"


async def _alive() -> dict[str, str]:
    """The process lives; says nothing about the tunnel."""
    return {"status": "ok"}


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise BadRequestError(f"files over {limit >> 20} MiB do not go through the gateway")
    return bytes(data)


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    kind = error.kind if isinstance(error, BouchetError) else "error"
    status = 401 if kind == "unauthorized" else STATUS_OF_KIND.get(kind, 502)
    return _problem(status, kind, str(error))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    """Says where and what, never the input: it may be a passcode."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    words = "; ".join(f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}" for p in problems)
    return _problem(422, "bad_request", words)


def _problem(status: int, kind: str, detail: str) -> JSONResponse:
    body = {"type": "about:blank", "title": kind.replace("_", " "), "status": status, "detail": detail, "kind": kind}
    return JSONResponse(body, status, media_type="application/problem+json")
