"""What a server on the cluster's network is: reached through a slot, asked without running its model.

Three answers are kept apart: what the server says, that it does not answer, and that it could not be asked. The key
goes to the server whose node and port a person named, and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from bouchet_core.deployments.attached import (
    ApiDialect,
    ModelNotServedError,
    NoModelServerError,
    ServerKeyRefusedError,
    ServerUnreachableError,
)
from bouchet_core.gateway_client import NO_TLS

# for a whole answer, of a server that sends the bytes of its headers or body one by one too
PROBE_TIMEOUT_S = 6.0
# the list of models of a server with thousands of them; more is no list of models
LONGEST_ANSWER = 1 << 20
SHOWN_MODELS = 8
LONGEST_ID, LONGEST_DETAIL = 200, 300
# kinds of the gateway's errors that say nothing about the server
_NOT_ASKED = frozenset(
    ("tunnel_down", "human_needed", "no_target", "cluster_unavailable", "gateway_unreachable", "store_unavailable")
)
# a request without a body is refused before a model works; a server without the endpoint answers otherwise
_ENDPOINTS: Mapping[ApiDialect, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
_ABSENT = frozenset((404, 405, 501))
_KEY_REFUSED = frozenset((401, 403))


class NotAskedError(Exception):
    """The server could not be asked: the tunnel is down, or the gateway does not answer."""


@dataclass(frozen=True)
class ServedModel:
    """A model in a server's list. window: tokens, None where the server does not say."""

    id: str
    window: int | None = None


@dataclass(frozen=True)
class ServerReport:
    """What a server says of itself."""

    models: tuple[ServedModel, ...]
    dialects: tuple[ApiDialect, ...] = ()
    vllm_version: str | None = None

    def model(self, wanted: str | None) -> ServedModel:
        """Return the model of that name, or the only one. Raises ModelNotServedError."""
        names = ", ".join(model.id for model in self.models[:SHOWN_MODELS])
        names += f" and {len(self.models) - SHOWN_MODELS} more" if len(self.models) > SHOWN_MODELS else ""
        if wanted is not None:
            for model in self.models:
                if model.id.lower() == wanted.lower():
                    return model
            raise ModelNotServedError(f"the server has no model {wanted!r}; it serves {names}")
        if len(self.models) > 1:
            raise ModelNotServedError(f"the server has several models; name one with --model: {names}")
        return self.models[0]


class AttachedClient:
    """Requests to one server behind a slot. An empty key is not sent. A context manager."""

    def __init__(self, url: str, key: str) -> None:
        self._has_key = bool(key)
        self._loop = asyncio.Runner()
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            verify=NO_TLS,
            trust_env=False,
            timeout=PROBE_TIMEOUT_S,
        )

    def __enter__(self) -> AttachedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._http.aclose())
        self._loop.close()

    def models(self) -> tuple[ServedModel, ...]:
        """Return the server's models. Raises AttachError and NotAskedError."""
        status, body = self._ask("GET", "/v1/models")
        self._check_key(status)
        found = parse_models(body) if status == httpx.codes.OK else ()
        if not found:
            self._check_plain()
            answer = f"HTTP {status}" if status != httpx.codes.OK else "no list of models"
            raise NoModelServerError(f"what answers there is not a model server: GET /v1/models returned {answer}")
        return found

    def report(self) -> ServerReport:
        """Return all that the server says of itself. Raises AttachError and NotAskedError."""
        models, dialects = self.models(), []
        for dialect, path in _ENDPOINTS.items():
            status, _ = self._ask("POST", path)
            self._check_key(status)
            if status not in _ABSENT:
                dialects.append(dialect)
        if not dialects:
            paths = " nor ".join(_ENDPOINTS.values())
            raise NoModelServerError(f"the server lists models, but has neither {paths}")
        return ServerReport(models, tuple(dialects), self._vllm_version())

    def _vllm_version(self) -> str | None:
        """Return vLLM's version, None for another server."""
        status, body = self._ask("GET", "/version")
        version = body.get("version") if isinstance(body, dict) and status == httpx.codes.OK else None
        return version[:LONGEST_ID] if isinstance(version, str) else None

    def _check_key(self, status: int) -> None:
        if status in _KEY_REFUSED:
            what = "refuses this key" if self._has_key else "wants a key: give the file that holds it with --key-file"
            raise ServerKeyRefusedError(f"the server {what} (HTTP {status})")

    def _check_plain(self) -> None:
        """Raise NoModelServerError for a server that speaks TLS: a slot leads there in plain HTTP, inside ssh."""
        try:
            self._loop.run(asyncio.wait_for(self._shake_hands(), PROBE_TIMEOUT_S))
        except OSError:  # TimeoutError is one
            return
        raise NoModelServerError(
            "the server speaks TLS (https), and attached servers are reached in plain HTTP, inside the SSH connection: "
            "name its plain port, or ask its owner for one"
        )

    async def _shake_hands(self) -> None:
        """Begin TLS with the server and end it: only whether it speaks TLS is asked, nothing is sent to it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        url = self._http.base_url
        _, writer = await asyncio.open_connection(url.host, url.port or 80, ssl=context)
        writer.transport.abort()
        await asyncio.sleep(0)  # so that the loop closes the connection

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of an answer, None for other text."""
        try:
            response, data = self._loop.run(asyncio.wait_for(self._fetch(method, path), PROBE_TIMEOUT_S))
        except httpx.ConnectError as exc:
            raise NotAskedError(f"the gateway does not answer: {exc}") from exc
        except (httpx.TimeoutException, TimeoutError) as exc:
            raise ServerUnreachableError(f"no whole answer within {PROBE_TIMEOUT_S:.0f} s") from exc
        except httpx.HTTPError as exc:
            self._check_plain()
            detail = str(exc) or type(exc).__name__
            raise ServerUnreachableError(f"it does not answer as an HTTP server does: {detail}") from exc
        return response.status_code, _checked(response, data)

    async def _fetch(self, method: str, path: str) -> tuple[httpx.Response, bytes]:
        """Return an answer and its body, within LONGEST_ANSWER."""
        async with self._http.stream(method, path, json={} if method == "POST" else None) as response:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > LONGEST_ANSWER:
                    raise NoModelServerError(f"{method} {path} returned more than {LONGEST_ANSWER >> 20} MiB")
        return response, bytes(data)


def parse_models(body: Any) -> tuple[ServedModel, ...]:
    """Return the models of a list in OpenAI's form, without what has no usable name; empty for anything else."""
    entries = body.get("data") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        return ()
    found = (_parse_model(entry) for entry in entries)
    return tuple(model for model in found if model is not None)


def _parse_model(entry: Any) -> ServedModel | None:
    name = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name.isascii() or not name.isprintable() or not 0 < len(name) <= LONGEST_ID:
        return None
    meta = entry.get("meta")
    # vLLM and SGLang name it max_model_len; llama.cpp has it below `meta`
    windows = (entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None)
    return ServedModel(name, next((window for window in windows if _is_window(window)), None))


def _is_window(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 30


def _checked(response: httpx.Response, data: bytes) -> Any:
    """Return the JSON of the server's own answer. Raises for an answer of the gateway, which has none of it."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    is_problem = "problem+json" in response.headers.get("content-type", "") and isinstance(body, dict)
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or not is_problem:
        return body
    detail = str(body.get("detail"))[:LONGEST_DETAIL]
    if body.get("kind") in _NOT_ASKED:
        raise NotAskedError(detail)
    raise ServerUnreachableError(f"nothing answers there: {detail}", is_definite=True)


def listed(models: Sequence[ServedModel], name: str) -> ServedModel | None:
    """Return the model of that name, None where the server has it no more."""
    return next((model for model in models if model.id == name), None)
