"""The door: one ASGI app before everything else. It checks the key, reads the request, and has it served."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import orjson

from .asgi import App, BodyTooLargeError, ClientGoneError, Receive, Scope, Send, header, read_body
from .auth.api_keys import Caller, KeyTable
from .dialects.endpoints import BadBodyError, Dialect, Endpoint, ThreadWanted, check_body, endpoint_of
from .dispatch import Call, Carrier, Lane, Refused, Serving
from .errors import (
    bad_request,
    broken,
    no_such_path,
    no_threads,
    owner_only,
    status_in,
    table_unknown,
    too_large,
    wrong_key,
)
from .model_list import find_line, model_line, model_list
from .passthrough import PREFIX, relay
from .routing.table import DEFAULT, RoutingTable
from .settings import ProxySettings
from .streams.client import Client
from .usage.metrics import CONTENT_TYPE
from .usage.recorder import Recorder
from .usage.request import Tally, session_of

log = logging.getLogger(__name__)

LIVELINESS = ("/health/liveliness", "/health/liveness")


class Front:
    """The app that uvicorn serves. `table` gives the routing table of the moment; `rest` is LiteLLM's app."""

    def __init__(
        self,
        settings: ProxySettings,
        table: Callable[[], RoutingTable],
        keys: Callable[[], KeyTable],
        recorder: Recorder,
        lane: Lane,
        litellm: Carrier,
        lifespan: App,
    ) -> None:
        self._settings, self._table, self._keys, self._recorder = settings, table, keys, recorder
        self._serving, self._lifespan = Serving(settings, table, lane, litellm), lifespan
        self._lane = lane

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
        client = Client(path, endpoint_of(path), receive, send)
        try:
            if path.startswith(PREFIX):
                await self._raw(scope, receive, send, client)
            elif method in ("GET", "HEAD"):
                await self._get(path, scope, client)
            else:
                await self._post(path, scope, receive, client)
        except Refused as refused:
            await client.fail(refused.failure)
        except ClientGoneError:
            log.debug("the client left before its request was whole, or while it was held")
        except Exception:
            log.exception("%s %s failed", method, path)
            if not client.answered:
                await client.fail(broken())
        finally:
            client.close()

    async def _get(self, path: str, scope: Scope, client: Client) -> None:
        if path in LIVELINESS or path == "/":
            await client.answer_json(200, {"status": "ok", "service": "bouchet-llm proxy"})
            return
        caller = self._caller(scope)
        if path == "/metrics":
            await self._metrics(caller, client)
            return
        dialect = Dialect.ANTHROPIC if header(scope, b"anthropic-version") else Dialect.OPENAI
        if path == "/v1/models" or path == "/models":
            await client.answer_json(200, model_list(dialect, self._known()))
            return
        line = find_line(self._known(), path.removeprefix("/v1/models/")) if path.startswith("/v1/models/") else None
        if line is None:
            raise Refused(no_such_path(scope["method"], path))
        await client.answer_json(200, model_line(dialect, line))

    def _known(self) -> RoutingTable:
        if not self._table().known:
            raise Refused(table_unknown())
        return self._table()

    async def _post(self, path: str, scope: Scope, receive: Receive, client: Client) -> None:
        caller = self._caller(scope)
        endpoint = client.endpoint
        if endpoint is None or scope["method"] != "POST":
            raise Refused(no_such_path(scope["method"], path))
        tally = Tally(caller, endpoint, self._recorder.live)
        try:
            call = _call(endpoint, await self._body(scope, receive), scope, tally)
            await self._serving.serve(call, client, scope)
        except Refused as refused:
            await client.fail(refused.failure, tally.limits())
            tally.failed(refused.failure, status_in(client.dialect, refused.failure))
        except ClientGoneError:
            raise
        except Exception:
            tally.failed(broken(), 500)
            raise
        finally:
            self._recorder.take(tally)

    async def _raw(self, scope: Scope, receive: Receive, send: Send, client: Client) -> None:
        if not self._caller(scope).owner:
            raise Refused(owner_only(PREFIX))
        try:
            await relay(self._lane, self._settings, self._table(), client, scope, receive, send)
        except BodyTooLargeError as exc:
            raise Refused(too_large(self._settings.max_body_bytes)) from exc

    async def _metrics(self, caller: Caller, client: Client) -> None:
        if not caller.owner:
            raise Refused(owner_only("/metrics"))
        await client.answer(200, self._recorder.metrics(), [(b"content-type", CONTENT_TYPE)])

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
        except BodyTooLargeError as exc:
            raise Refused(too_large(self._settings.max_body_bytes)) from exc


def _call(endpoint: Endpoint, raw: bytes, scope: Scope, tally: Tally) -> Call:
    try:
        body = check_body(endpoint, orjson.loads(raw))
    except orjson.JSONDecodeError as exc:
        raise Refused(bad_request("the request body is not valid JSON")) from exc
    except ThreadWanted as exc:
        raise Refused(no_threads(str(exc))) from exc
    except BadBodyError as exc:
        raise Refused(bad_request(str(exc))) from exc
    tally.session = session_of(scope, body)
    return Call(endpoint, body, body.get("model") or DEFAULT, len(raw), tally)
