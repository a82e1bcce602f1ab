"""The door: one ASGI app before everything else. It checks the key, reads and routes the request, applies the rules,
and hands it to a carrier: the direct lane for what vLLM speaks itself, LiteLLM for the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import orjson
from bouchet_core.secrets import job_key

from .asgi import (
    App,
    BodyTooLarge,
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
    answer_bytes,
    answer_json,
    header,
    read_body,
)
from .callers import Caller, KeyTable
from .clamp import asks_too_much
from .dialects import BadBody, Dialect, Endpoint, check_body, dialect_of, endpoint_of, prepare
from .exchange import Exchange, send_failure
from .listing import find_line, model_line, model_list
from .metrics import CONTENT_TYPE
from .openai_body import wants_usage
from .recorder import Recorder
from .routing import DEFAULT, NoSuchModel, NothingRuns, Route, RoutingTable, Waiting
from .settings import Settings
from .tally import Tally, session_of
from .wording import (
    Failure,
    bad_request,
    broken,
    no_such_model,
    no_such_path,
    not_ready,
    nothing_runs,
    over_limit,
    owner_only,
    status_in,
    too_large,
    wrong_key,
)

log = logging.getLogger(__name__)

LIVELINESS = ("/health/liveliness", "/health/liveness")
# LiteLLM guesses at counts of tokens, and streams completions in the shape of chats: these never go there
ALWAYS_DIRECT = frozenset((Endpoint.COUNT_TOKENS, Endpoint.COMPLETIONS))


class Carrier(Protocol):
    """Takes an exchange to its model and the answer back."""

    async def carry(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the client, whatever happens."""


class Refused(Exception):
    """The request ends here, with this failure."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


class Front:
    """The app that uvicorn serves. `table` gives the routing table of the moment; `rest` is LiteLLM's app."""

    def __init__(
        self,
        settings: Settings,
        table: Callable[[], RoutingTable],
        keys: Callable[[], KeyTable],
        recorder: Recorder,
        lane: Carrier,
        litellm: Carrier,
        lifespan: App,
    ) -> None:
        self._settings, self._table, self._keys, self._recorder = settings, table, keys, recorder
        self._lane, self._litellm, self._lifespan = lane, litellm, lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        dialect = dialect_of(path)
        started = _Started(send)
        try:
            if method in ("GET", "HEAD"):
                await self._get(path, scope, started)
            else:
                await self._post(path, scope, receive, started)
        except Refused as refused:
            await send_failure(send, dialect, refused.failure)
        except ClientGone:
            log.debug("the client left before its request was whole")
        except Exception:
            log.exception("%s %s failed", method, path)
            if not started.begun:
                await send_failure(send, dialect, broken())

    async def _get(self, path: str, scope: Scope, send: Send) -> None:
        if path in LIVELINESS or path == "/":
            await answer_json(send, 200, {"status": "ok", "service": "bouchet-llm proxy"})
            return
        caller = self._caller(scope)
        if path == "/metrics":
            await self._metrics(caller, send)
            return
        dialect = Dialect.ANTHROPIC if header(scope, b"anthropic-version") else Dialect.OPENAI
        if path == "/v1/models" or path == "/models":
            await answer_json(send, 200, model_list(dialect, self._table()))
            return
        line = find_line(self._table(), path.removeprefix("/v1/models/")) if path.startswith("/v1/models/") else None
        if line is None:
            raise Refused(no_such_path(scope["method"], path))
        await answer_json(send, 200, model_line(dialect, line))

    async def _post(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._caller(scope)
        endpoint = endpoint_of(path)
        if endpoint is None or scope["method"] != "POST":
            raise Refused(no_such_path(scope["method"], path))
        tally = Tally(caller, endpoint, self._recorder.live)
        try:
            exchange = self._exchange(endpoint, await self._body(scope, receive), scope, tally)
            await self._carrier(endpoint).carry(exchange, scope, receive, send)
        except Refused as refused:
            dialect = dialect_of(endpoint)
            await send_failure(send, dialect, refused.failure, tally.limits())
            tally.failed(refused.failure, status_in(dialect, refused.failure))
        except ClientGone:
            raise
        except Exception:
            tally.failed(broken(), 500)
            raise
        finally:
            self._recorder.take(tally)

    def _carrier(self, endpoint: Endpoint) -> Carrier:
        direct = endpoint in ALWAYS_DIRECT or (self._settings.direct_lane and endpoint is Endpoint.MESSAGES)
        return self._lane if direct else self._litellm

    async def _metrics(self, caller: Caller, send: Send) -> None:
        if not caller.owner:
            raise Refused(owner_only("/metrics"))
        await answer_bytes(send, 200, self._recorder.metrics(), [(b"content-type", CONTENT_TYPE)])

    def _caller(self, scope: Scope) -> Caller:
        scheme, _, bearer = (header(scope, b"authorization") or b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else header(scope, b"x-api-key") or b""
        caller = self._keys().find(given, time.time())
        if caller is None:
            endpoint, failure = endpoint_of(scope["path"].rstrip("/")), wrong_key()
            self._recorder.refused(endpoint or "", failure.code or "", failure.status)
            raise Refused(failure)
        return caller

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        try:
            return await read_body(scope, receive, self._settings.max_body_bytes)
        except BodyTooLarge as exc:
            raise Refused(too_large(self._settings.max_body_bytes)) from exc

    def _exchange(self, endpoint: Endpoint, raw: bytes, scope: Scope, tally: Tally) -> Exchange:
        try:
            body = check_body(endpoint, orjson.loads(raw))
        except orjson.JSONDecodeError as exc:
            raise Refused(bad_request("the request body is not valid JSON")) from exc
        except BadBody as exc:
            raise Refused(bad_request(str(exc))) from exc
        shown = body.get("model") or DEFAULT
        tally.session = session_of(scope, body)
        route = self._route(shown)
        tally.route, tally.clamped = route, asks_too_much(body, route.window)
        if (too_much := tally.admit(len(raw))) is not None:
            raise Refused(over_limit(tally.caller.name, too_much))
        key = job_key(self._settings.serving_secret, route.job_name, route.sealed_key)
        prepared = prepare(endpoint, body, route)
        hidden = "stream_options" in prepared and not wants_usage(body)
        return Exchange(endpoint, dialect_of(endpoint), route, shown, prepared, key, tally, hidden)

    def _route(self, name: str) -> Route:
        match self._table().find(name):
            case Route() as route:
                return route
            case Waiting() as waiting:
                raise Refused(not_ready(waiting, datetime.now(UTC)))
            case NothingRuns() as found:
                raise Refused(nothing_runs(found))
            case NoSuchModel() as found:
                raise Refused(no_such_model(found))


class _Started:
    """An ASGI `send` that remembers whether the answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._send(message)
