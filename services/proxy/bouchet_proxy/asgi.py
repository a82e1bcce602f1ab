"""ASGI's own words, typed, and the three things this proxy does with them: read a body, answer JSON, find a header."""

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


class BodyTooLargeError(Exception):
    """The client sends more than is read."""


class ClientGoneError(Exception):
    """The client closed before its request was whole."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name (in lower case), None when there is none."""
    return next((value for key, value in scope["headers"] if key == name), None)


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole request body; raises BodyTooLargeError or ClientGoneError."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
        raise BodyTooLargeError
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size > limit_bytes:
            raise BodyTooLargeError
        pieces.append(piece)
    return b"".join(pieces)


async def answer_json(send: Send, status: int, value: object, headers: Iterable[Header] = ()) -> None:
    """A whole JSON answer."""
    await answer_bytes(send, status, orjson.dumps(value), [(b"content-type", b"application/json"), *headers])


async def answer_bytes(send: Send, status: int, body: bytes, headers: Iterable[Header]) -> None:
    """A whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
