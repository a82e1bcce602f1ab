"""The ASGI app of the proxy: it checks the API key, reads the request, and has it served."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import orjson

from .api_keys import Caller, KeyTable
from .asgi import App, BodyTooLargeError, ClientDisconnectedError, Receive, Scope, Send, header, read_body
from .backends.direct import DirectBackend
from .dialects.endpoints import (
    Dialect,
    Endpoint,
    InvalidBodyError,
    ThreadUnsupportedError,
    check_body,
    endpoint_of,
)
from .dispatch import ClientRequest, Dispatcher
from .errors import (
    ProxyError,
    bad_request,
    body_too_large,
    internal_error,
    invalid_api_key,
    owner_only,
    status_for,
    table_not_loaded,
    threads_unsupported,
    unknown_path,
)
from .model_list import find_model, render_model, render_model_list
from .passthrough import PREFIX, Passthrough
from .routing.table import DEFAULT, RoutingTable
from .settings import ProxySettings
from .streams.response_writer import ResponseWriter
from .upstream_request import Backend
from .usage.recorder import CONTENT_TYPE, UsageRecorder
from .usage.request import RequestUsage, find_session

log = logging.getLogger(__name__)

LIVENESS_PATHS = ("/", "/health/liveliness", "/health/liveness")


class ProxyApp:
    """The app that uvicorn serves. `table` and `keys` return the current tables; `lifespan` is LiteLLM's."""

    def __init__(
        self,
        settings: ProxySettings,
        table: Callable[[], RoutingTable],
        keys: Callable[[], KeyTable],
        recorder: UsageRecorder,
        direct: DirectBackend,
        litellm: Backend,
        lifespan: App,
    ) -> None:
        self._settings, self._table, self._keys, self._recorder = settings, table, keys, recorder
        self._dispatcher, self._lifespan = Dispatcher(settings, table, direct, litellm), lifespan
        self._passthrough = Passthrough(settings, direct)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve_http(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        writer = ResponseWriter(path, endpoint_of(path), receive, send)
        try:
            if path.startswith(PREFIX):
                await self._serve_passthrough(scope, receive, writer)
            elif method in ("GET", "HEAD"):
                await self._serve_get(path, scope, writer)
            else:
                await self._serve_post(path, scope, receive, writer)
        except ProxyError as exc:
            await writer.send_error(exc)
        except ClientDisconnectedError:
            log.debug("the client disconnected before its request was complete, or while it waited")
        except Exception:
            log.exception("%s %s failed", method, path)
            if not writer.finished:
                await writer.send_error(internal_error())
        finally:
            writer.close()

    async def _serve_get(self, path: str, scope: Scope, writer: ResponseWriter) -> None:
        if path in LIVENESS_PATHS:
            await writer.send_json(200, {"status": "ok", "service": "bouchet-llm proxy"})
            return
        caller = self._authenticate(scope)
        if path == "/metrics":
            await self._serve_metrics(caller, writer)
            return
        dialect = Dialect.ANTHROPIC if header(scope, b"anthropic-version") else Dialect.OPENAI
        if path in ("/v1/models", "/models"):
            await writer.send_json(200, render_model_list(dialect, self._loaded_table()))
            return
        name = path.removeprefix("/v1/models/")
        entry = find_model(self._loaded_table(), name) if name != path else None
        if entry is None:
            raise unknown_path(scope["method"], path)
        await writer.send_json(200, render_model(dialect, entry))

    def _loaded_table(self) -> RoutingTable:
        if not self._table().loaded:
            raise table_not_loaded()
        return self._table()

    async def _serve_post(self, path: str, scope: Scope, receive: Receive, writer: ResponseWriter) -> None:
        caller = self._authenticate(scope)
        endpoint = writer.endpoint
        if endpoint is None or scope["method"] != "POST":
            raise unknown_path(scope["method"], path)
        usage = RequestUsage(caller, endpoint, self._recorder.active)
        try:
            request = parse_request(endpoint, await self._read_body(scope, receive), scope, usage)
            await self._dispatcher.serve(request, writer)
        except ProxyError as exc:
            await writer.send_error(exc, usage.rate_limit_headers())
            usage.fail(exc, status_for(writer.dialect, exc))
        except ClientDisconnectedError:
            raise
        except Exception:
            usage.fail(internal_error(), 500)
            raise
        finally:
            self._recorder.add(usage)

    async def _serve_passthrough(self, scope: Scope, receive: Receive, writer: ResponseWriter) -> None:
        if not self._authenticate(scope).is_owner:
            raise owner_only(PREFIX)
        try:
            await self._passthrough.serve(scope, receive, writer, self._table())
        except BodyTooLargeError as exc:
            raise body_too_large(self._settings.max_body_bytes) from exc

    async def _serve_metrics(self, caller: Caller, writer: ResponseWriter) -> None:
        if not caller.is_owner:
            raise owner_only("/metrics")
        await writer.send(200, self._recorder.render_metrics(), [(b"content-type", CONTENT_TYPE)])

    def _authenticate(self, scope: Scope) -> Caller:
        scheme, _, bearer = (header(scope, b"authorization") or b"").partition(b" ")
        key = bearer.strip() if scheme.lower() == b"bearer" else header(scope, b"x-api-key") or b""
        caller = self._keys().find(key, time.time())
        if caller is None:
            endpoint, error = endpoint_of(scope["path"].rstrip("/")), invalid_api_key()
            self._recorder.count_rejected(endpoint or "", error.code or "", error.status)
            raise error
        return caller

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        try:
            return await read_body(scope, receive, self._settings.max_body_bytes)
        except BodyTooLargeError as exc:
            raise body_too_large(self._settings.max_body_bytes) from exc


def parse_request(endpoint: Endpoint, data: bytes, scope: Scope, usage: RequestUsage) -> ClientRequest:
    """Parse and check a request body. Raises ProxyError."""
    try:
        body = check_body(endpoint, orjson.loads(data))
    except orjson.JSONDecodeError as exc:
        raise bad_request("the request body is not valid JSON") from exc
    except ThreadUnsupportedError as exc:
        raise threads_unsupported(str(exc)) from exc
    except InvalidBodyError as exc:
        raise bad_request(str(exc)) from exc
    usage.session = find_session(scope, body)
    return ClientRequest(endpoint, body, body.get("model") or DEFAULT, len(data), usage, scope)
