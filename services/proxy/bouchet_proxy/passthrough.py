"""`/passthrough/NAME/...`: a deployment's vLLM server unfiltered, for the owner's tools and for `bouchet tunnel`.

The request goes to the slot as it came, with the job's key in place of the caller's, and the response comes back as it
comes. No name is translated, and nothing is clamped, delayed, counted or moved to a replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from bouchet_core.keys import job_key

from .admission import Ticket
from .asgi import Header, Receive, Scope, read_body
from .backends.direct import DirectBackend
from .errors import timed_out, unavailable, unknown_path, unreachable
from .http.connection import ReadTimeoutError, TransportError
from .http.pool import JobServer, server_of
from .routing.load import LoadTracker
from .routing.table import ReplicaGroup, Route, RoutingTable
from .settings import ProxySettings
from .streams.response_writer import ResponseWriter, run_until_disconnect

PREFIX = "/passthrough/"
# seconds without a byte: a whole response without streaming sends nothing until its end
READ_TIMEOUT_S = 1800.0
# headers of one hop only, and those that are not meant for the model
_DROPPED_REQUEST_HEADERS = frozenset(
    b"host connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect content-length "
    b"authorization x-api-key cookie x-bouchet-stream x-bouchet-attempt".split()
)
# of one hop only, and the date, which the proxy's own server adds
_DROPPED_RESPONSE_HEADERS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"date"))


class Passthrough:
    """Relays requests to vLLM servers over the direct backend's connections."""

    def __init__(self, settings: ProxySettings, direct: DirectBackend, load: LoadTracker) -> None:
        self._settings, self._direct, self._load = settings, direct, load

    async def serve(
        self, scope: Scope, receive: Receive, writer: ResponseWriter, table: RoutingTable, ticket: Ticket
    ) -> None:
        """Relay one request. Raises ProxyError, BodyTooLargeError, TooMuchUnderWayError and ClientDisconnectedError."""
        settings = self._settings
        name, target = split_path(scope)
        route = _find_route(table, name)
        with self._load.track(route.job_name):
            body = await read_body(scope, receive, settings.max_body_bytes, ticket.hold_piece)
            key = job_key(settings.serving_secret.get_secret_value(), route.job_name, route.sealed_key)
            host = f"{settings.slot_host}:{settings.slot_base_port + route.slot}"
            head = request_head(scope, target, host, key, len(body))
            head_only = scope["method"] == "HEAD"
            await run_until_disconnect(
                writer, self._relay(writer, route.alias, server_of(route, key), head, body, head_only)
            )

    async def _relay(
        self, writer: ResponseWriter, alias: str, server: JobServer, head: bytes, body: bytes, head_only: bool
    ) -> None:
        """Relay the response. One that is interrupted gets no end: the client must not take it for complete."""
        try:
            async with self._direct.open_response(server, head, body, READ_TIMEOUT_S) as connection:
                headers = [(n, v) for n, v in connection.headers.items() if n not in _DROPPED_RESPONSE_HEADERS]
                await writer.start(connection.status, headers)
                while not head_only and (piece := await connection.read()):
                    await writer.write(piece)
                await writer.end(b"")
        except TransportError as exc:
            if not writer.streaming:
                timeout = isinstance(exc, ReadTimeoutError)
                raise (timed_out(alias, READ_TIMEOUT_S) if timeout else unreachable(alias)) from exc


def split_path(scope: Scope) -> tuple[str, bytes]:
    """Split the path into the deployment's name and the target for its server, as the client wrote it.

    Raises ProxyError.
    """
    path = scope.get("raw_path") or scope["path"].encode()
    name, slash, rest = path.partition(b"?")[0].removeprefix(PREFIX.encode()).partition(b"/")
    # the answers of other clients are kept below /bouchet/ (http/resumption.py)
    if not name or not slash or unquote_to_bytes(rest).lstrip(b"/").startswith(b"bouchet/"):
        raise unknown_path(scope["method"], scope["path"])
    query = scope.get("query_string") or b""
    return unquote_to_bytes(name).decode("utf-8", "replace"), b"/" + rest + (b"?" + query if query else b"")


def request_head(scope: Scope, target: bytes, host: str, key: str, length: int) -> bytes:
    """Return the head of the request to the server. A HEAD is sent as a GET, and its body dropped."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    own: Iterable[Header] = (
        (b"host", host.encode()),
        *([(b"authorization", f"Bearer {key}".encode())] if key else []),
        *([(b"content-length", str(length).encode())] if length or method in ("POST", "PUT", "PATCH") else []),
    )
    forwarded = [(name, value) for name, value in scope["headers"] if name not in _DROPPED_REQUEST_HEADERS]
    lines = [method.encode() + b" " + target + b" HTTP/1.1", *(n + b": " + v for n, v in (*own, *forwarded))]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _find_route(table: RoutingTable, name: str) -> Route:
    found = table.find(name)
    if isinstance(found, ReplicaGroup):
        return found.routes[0]
    if not isinstance(found, Route):
        raise unavailable(found, datetime.now(UTC))
    return found
