"""The ASGI app of the proxy: it checks the API key, reads the request, and has it served."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from .admission import Gate, LoadLimits, Ticket, TooMuchUnderWayError
from .api_keys import Caller, KeyTable, RateLimitExceededError, credentials
from .asgi import App, BodyTooLargeError, ClientDisconnectedError, Receive, Scope, Send, declared_length, header
from .backends.direct import DirectBackend
from .backends.gemini import GeminiRequests
from .browsers import Browsers
from .dialects.endpoints import (
    TOKENIZED,
    Dialect,
    Endpoint,
    InvalidBodyError,
    ThreadUnsupportedError,
    check_body,
    count_answer,
    dialect_of,
    endpoint_of,
    normalize_path,
)
from .dialects.tokens import Body, TokenCounts
from .dispatch import ClientRequest, Dispatcher
from .errors import (
    ProxyError,
    bad_request,
    body_too_large,
    internal_error,
    invalid_api_key,
    method_not_allowed,
    nested_too_deeply,
    owner_only,
    rate_limit_exceeded,
    status_for,
    table_not_current,
    table_not_loaded,
    threads_unsupported,
    too_much_under_way,
    unknown_path,
)
from .model_list import find_model, render_model, render_model_list
from .passthrough import PREFIX, Passthrough
from .request_body import BodyReader
from .routing.load import LoadTracker
from .routing.table import DEFAULT, RoutingTable
from .settings import ProxySettings
from .streams.gemini_writer import GeminiWriter
from .streams.response_writer import ResponseWriter
from .upstream_request import Backend
from .usage.hints import read_hints
from .usage.live import OpenRequests
from .usage.recorder import CONTENT_TYPE, UsageRecorder
from .usage.request import RequestUsage, find_session

log = logging.getLogger(__name__)

# `claude doctor` asks, without a key, whether the address answers
HELLO_PATH = "/api/hello"
VERSIONS = ("/v1beta", "/v1alpha", "/v1")
READING = "GET, HEAD"
LIVENESS_PATHS = ("/health/liveliness", "/health/liveness")
ROOT_PATH = "/"
ROOT_TEXT = (
    "This is the proxy of bouchet-llm: the models of a Slurm cluster for Claude Code and other programs, which send "
    "their requests to /v1/messages, /v1/chat/completions or /v1/responses with a key. The dashboard is at {}"
)


class ProxyApp:
    """The app that uvicorn serves. `table` and `keys` return the current tables; `lifespan` is LiteLLM's.

    `problem` returns why a table is not current, '' while both are.
    """

    def __init__(
        self,
        settings: ProxySettings,
        table: Callable[[], RoutingTable],
        keys: Callable[[], KeyTable],
        problem: Callable[[], str],
        recorder: UsageRecorder,
        direct: DirectBackend,
        litellm: Backend,
        lifespan: App,
        load: LoadTracker | None = None,
        open_requests: OpenRequests | None = None,
    ) -> None:
        self._settings, self._table, self._keys, self._recorder = settings, table, keys, recorder
        self._problem = problem
        self._open_requests = open_requests or OpenRequests(settings.serving_secret.get_secret_value())
        tracker = load or LoadTracker()
        self._dispatcher, self._lifespan = Dispatcher(settings, table, direct, litellm, tracker), lifespan
        self._passthrough = Passthrough(settings, direct, tracker)
        per_key = LoadLimits(settings.max_requests_per_key, settings.max_bytes_per_key)
        self._gate = Gate(per_key, LoadLimits(settings.max_requests, settings.max_bytes))
        self._bodies = BodyReader(settings.max_body_bytes, settings.max_bytes_per_key)
        self._browsers = Browsers(settings.browser_origins)
        self._gemini = GeminiRequests()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve_http(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = normalize_path(scope["path"]), scope["method"]
        dialect = dialect_of(path, _client_dialect(scope))
        kind = GeminiWriter if dialect is Dialect.GOOGLE else ResponseWriter
        writer = kind(dialect, endpoint_of(path), receive, self._browsers.wrap(scope, send))
        try:
            if method == "OPTIONS":
                await writer.send(200, b"", self._browsers.preflight(scope, _methods(path)))
            elif path.startswith(PREFIX):
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
            if problem := self._problem():
                raise table_not_current(problem)
            await writer.send_json(200, {"status": "ok", "service": "bouchet-llm proxy"})
            return
        if path == ROOT_PATH:
            text = ROOT_TEXT.format(self._settings.dashboard_url)
            await writer.send(200, f"{text}\n".encode(), [(b"content-type", b"text/plain; charset=utf-8")])
            return
        if path == HELLO_PATH:
            await writer.send_json(200, {})
            return
        if path == "/metrics":
            await self._serve_metrics(scope, writer)
            return
        self._authenticate(scope)
        if writer.endpoint is not None:
            raise method_not_allowed(scope["method"], path, "POST")
        if not _is_model_list(path):
            raise unknown_path(scope["method"], path)
        name = path.partition("/models")[2]
        table = self._loaded_table()
        if name:
            await writer.send_json(200, render_model(writer.dialect, find_model(table, name.removeprefix("/"))))
        else:
            await writer.send_json(200, render_model_list(writer.dialect, table))

    def _loaded_table(self) -> RoutingTable:
        if not self._table().loaded:
            raise table_not_loaded()
        return self._table()

    async def _serve_post(self, path: str, scope: Scope, receive: Receive, writer: ResponseWriter) -> None:
        caller = self._authenticate(scope)
        endpoint = writer.endpoint
        if endpoint is None:
            if _is_model_list(path):
                raise method_not_allowed(scope["method"], path, READING)
            raise unknown_path(scope["method"], path)
        if scope["method"] != "POST":
            raise method_not_allowed(scope["method"], path, "POST")
        usage = RequestUsage(caller, endpoint, self._recorder.active, hints=read_hints(scope))
        try:
            with self._open_requests.track(usage), self._enter(caller, scope) as ticket:
                request = await self._read_request(writer, scope, receive, usage, ticket)
                await self._serve_request(request, writer)
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
            if usage.problem is not None:
                self._open_requests.note_error(usage, usage.problem, usage.status)

    async def _serve_request(self, request: ClientRequest, writer: ResponseWriter) -> None:
        """Have it served. Raises ProxyError."""
        try:
            if request.usage.endpoint in TOKENIZED:
                counted = await self._dispatcher.count(request, writer)
                await writer.send_json(200, count_answer(request.usage.endpoint, counted))
                request.usage.finish(200, TokenCounts())
                return
            await self._dispatcher.serve(request, writer)
        except (orjson.JSONEncodeError, RecursionError) as exc:
            # orjson reads more levels than it writes
            raise nested_too_deeply() from exc

    async def _serve_passthrough(self, scope: Scope, receive: Receive, writer: ResponseWriter) -> None:
        caller = self._authenticate(scope)
        if not caller.is_owner:
            raise owner_only(PREFIX)
        with self._enter(caller, scope) as ticket:
            await self._passthrough.serve(scope, receive, writer, self._table(), ticket)

    async def _serve_metrics(self, scope: Scope, writer: ResponseWriter) -> None:
        is_prometheus = any(map(self._keys().opens_metrics, credentials(scope)))
        if not is_prometheus and not self._authenticate(scope).is_owner:
            raise owner_only("/metrics")
        await writer.send(200, self._recorder.render_metrics(), [(b"content-type", CONTENT_TYPE)])

    def _authenticate(self, scope: Scope) -> Caller:
        now, keys = time.time(), self._keys()
        caller = next((found for key in credentials(scope) if (found := keys.find(key, now)) is not None), None)
        if caller is None:
            endpoint, error = endpoint_of(normalize_path(scope["path"])), invalid_api_key()
            self._recorder.count_rejected(endpoint or "", error.code or "", error.status)
            raise error
        return caller

    @contextmanager
    def _enter(self, caller: Caller, scope: Scope) -> Iterator[Ticket]:
        """Admit a request before its body is read; count what it holds until its end. Raises ProxyError."""
        try:
            with self._gate.enter(caller.name, caller.is_owner) as ticket:
                ticket.expect(declared_length(scope))
                yield ticket
        except TooMuchUnderWayError as exc:
            raise too_much_under_way(caller.name, exc) from exc
        except BodyTooLargeError as exc:
            raise body_too_large(self._settings.max_body_bytes) from exc

    async def _read_request(
        self, writer: ResponseWriter, scope: Scope, receive: Receive, usage: RequestUsage, ticket: Ticket
    ) -> ClientRequest:
        """Charge the caller's limits, and read, parse and check the body. Raises ProxyError."""
        try:
            usage.admit(declared_length(scope))
        except RateLimitExceededError as exc:
            raise rate_limit_exceeded(usage.caller.name, exc) from exc
        data = await self._bodies.read(scope, receive, ticket)
        usage.set_size(len(data))
        value, endpoint = await self._bodies.parse(data, ticket), usage.endpoint
        if isinstance(writer, GeminiWriter):
            chat = await self._gemini.translate(normalize_path(scope["path"]), value, writer)
            usage.session, usage.model_name = find_session(scope, chat), chat["model"]
            return ClientRequest(Endpoint.CHAT, chat, chat["model"], usage, scope)
        body = check_request(endpoint, value)
        usage.session, usage.model_name = find_session(scope, body), body.get("model") or DEFAULT
        asked = Endpoint.RESPONSES if endpoint is Endpoint.INPUT_TOKENS else endpoint
        return ClientRequest(asked, body, usage.model_name, usage, scope)


def _is_model_list(path: str) -> bool:
    """Return whether a path is a list of models, or one of it. A colon begins a method of Gemini's."""
    rest = next((path.removeprefix(one) for one in VERSIONS if path.startswith(f"{one}/")), path)
    return rest == "/models" or (rest.startswith("/models/") and ":" not in rest)


def _methods(path: str) -> str:
    """Return the methods of a path."""
    return f"{READING if _is_model_list(path) and endpoint_of(path) is None else 'POST'}, OPTIONS"


def _client_dialect(scope: Scope) -> Dialect | None:
    """Return the dialect of the client that sends these headers, None where they say nothing of it."""
    if header(scope, b"anthropic-version") is not None:
        return Dialect.ANTHROPIC
    names = (b"x-goog-api-key", b"x-goog-api-client")
    return Dialect.GOOGLE if any(header(scope, name) is not None for name in names) else None


def check_request(endpoint: Endpoint, value: Any) -> Body:
    """Check a parsed request body. Raises ProxyError."""
    try:
        return check_body(endpoint, value)
    except RecursionError as exc:
        raise nested_too_deeply() from exc
    except ThreadUnsupportedError as exc:
        raise threads_unsupported(str(exc)) from exc
    except InvalidBodyError as exc:
        raise bad_request(str(exc)) from exc
