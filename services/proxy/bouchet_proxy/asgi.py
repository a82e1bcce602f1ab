"""ASGI types, and what this proxy does with them: find a header, read a request body, send a response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

MAX_LENGTH_DIGITS = 18


class BodyTooLargeError(Exception):
    """The request body exceeds the limit."""


class ClientDisconnectedError(Exception):
    """The client closed the connection before its request was complete, or while it waited for a model."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that name (in lower case), None when there is none."""
    return next((value for key, value in scope["headers"] if key == name), None)


def declared_length(scope: Scope) -> int:
    """Return the length that the request's head declares, 0 without one."""
    declared = header(scope, b"content-length") or b""
    # a longer number would be slow to convert, or an error
    return int(declared) if declared.isdigit() and len(declared) <= MAX_LENGTH_DIGITS else 0


async def read_body(scope: Scope, receive: Receive, limit_bytes: int, take: Callable[[bytes], None]) -> bytes:
    """Read the whole request body. take: is given each piece before it is kept, and may raise.

    Raises BodyTooLargeError or ClientDisconnectedError.
    """
    if declared_length(scope) > limit_bytes:
        raise BodyTooLargeError
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size > limit_bytes:
            raise BodyTooLargeError
        take(piece)
        pieces.append(piece)
    return b"".join(pieces)


async def send_json(send: Send, status: int, value: object, headers: Iterable[Header] = ()) -> None:
    """Send a whole response with a JSON body."""
    await send_response(send, status, orjson.dumps(value), [(b"content-type", b"application/json"), *headers])


async def send_response(send: Send, status: int, body: bytes, headers: Iterable[Header]) -> None:
    """Send a whole response; content-length is added."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
