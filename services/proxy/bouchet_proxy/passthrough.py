"""`/passthrough/NAME/...`: a deployment's vLLM as it is, for the owner's tools; `bouchet tunnel --port` leads here.

The request goes to the slot as it came, but for the caller's key, in whose place the job's own is put; the answer comes
back as it comes. No name is translated, nothing is clamped, held, counted or moved to a replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from bouchet_core.keys import job_key

from .asgi import Header, Receive, Scope, Send, read_body
from .dispatch import Lane, Refused, refusal
from .errors import no_such_path, timed_out, unreachable
from .http.connection import Silent, WireError
from .http.server_auth import Target, target_of
from .routing.table import Group, Route, RoutingTable
from .settings import ProxySettings
from .streams.client import Client, while_there

PREFIX = "/passthrough/"
# seconds without a byte: a whole answer without streaming is silent until its end
SILENCE_S = 1800.0
# said by each hop for itself, or not meant for the model
_NOT_PASSED_ON = frozenset(
    b"host connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect content-length "
    b"authorization x-api-key cookie".split()
)
_OF_THE_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding"))


async def relay(
    lane: Lane, settings: ProxySettings, table: RoutingTable, client: Client, scope: Scope, receive: Receive, send: Send
) -> None:
    """Asks the model behind the path, and relays its answer. Raises Refused, BodyTooLargeError and ClientGoneError."""
    name, target = split_path(scope)
    route = _route(table, name)
    body = await read_body(scope, receive, settings.max_body_bytes)
    key = job_key(settings.serving_secret.get_secret_value(), route.job_name, route.sealed_key)
    host = f"{settings.slot_host}:{settings.slot_base_port + route.slot}"
    head = request_head(scope, target, host, key, len(body))
    asked = (target_of(route, key), head, body)
    await while_there(client, _answer(lane, route.alias, asked, client, scope["method"] == "HEAD", send))


def split_path(scope: Scope) -> tuple[str, bytes]:
    """The deployment's name, and what its server is asked for, as the client wrote it. Raises Refused."""
    raw = scope.get("raw_path") or scope["path"].encode()
    name, slash, rest = raw.partition(b"?")[0].removeprefix(PREFIX.encode()).partition(b"/")
    if not name or not slash:
        raise Refused(no_such_path(scope["method"], scope["path"]))
    query = scope.get("query_string") or b""
    return unquote_to_bytes(name).decode("utf-8", "replace"), b"/" + rest + (b"?" + query if query else b"")


def request_head(scope: Scope, target: bytes, host: str, key: str, length: int) -> bytes:
    """The request's first lines as the model's server gets them. A HEAD is asked as a GET, whose body nobody sees."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    own: Iterable[Header] = (
        (b"host", host.encode()),
        (b"authorization", f"Bearer {key}".encode()),
        *([(b"content-length", str(length).encode())] if length or method in ("POST", "PUT", "PATCH") else []),
    )
    passed_on = [(name, value) for name, value in scope["headers"] if name not in _NOT_PASSED_ON]
    lines = [method.encode() + b" " + target + b" HTTP/1.1", *(n + b": " + v for n, v in (*own, *passed_on))]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _route(table: RoutingTable, name: str) -> Route:
    found = table.find(name)
    if isinstance(found, Group):
        return found.routes[0]
    if not isinstance(found, Route):
        raise Refused(refusal(found, datetime.now(UTC)))
    return found


async def _answer(
    lane: Lane, alias: str, asked: tuple[Target, bytes, bytes], client: Client, head_only: bool, send: Send
) -> None:
    """An answer that breaks off is left without an end: the client must not take it for whole."""
    try:
        async with lane.asked(*asked, SILENCE_S) as wire:
            client.streaming = True
            headers = [(name, value) for name, value in wire.headers.items() if name not in _OF_THE_HOP]
            await send({"type": "http.response.start", "status": wire.status, "headers": headers})
            while not head_only and (piece := await wire.read()):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            client.answered = True
    except WireError as exc:
        if not client.streaming:
            silent = isinstance(exc, Silent)
            raise Refused(timed_out(alias, SILENCE_S) if silent else unreachable(alias)) from exc
