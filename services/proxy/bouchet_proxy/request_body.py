"""A request body: it is read, decompressed and parsed, and no step takes more memory than the limits allow.

A compressed body is decompressed in pieces, each of which is counted before the next one is made: what a client sends
may be a thousand times larger than its bytes.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from .admission import (
    LARGE_BODY_BYTES,
    MAX_JSON_VALUES,
    Ticket,
    TooManyValuesError,
    ValueCount,
    parse_json,
    texts_size,
)
from .asgi import BodyTooLargeError, Receive, Scope, header, read_body
from .errors import bad_request, body_too_large, encoding_unsupported, too_many_values

# of a decompressed piece; other requests get their turn between two
PIECE_BYTES = 1 << 18
# of a compressed body, given to zlib at a time; a program that writes blocks makes a member of 64 KiB
INPUT_BYTES, MAX_MEMBERS = 1 << 16, 4096
_ZEROS = re.compile(rb"\0+")
# zlib's window sizes: with gzip's head, and with zlib's own
_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15
ENCODINGS = ("gzip", "deflate")
# some clients put the character set here
_NO_ENCODINGS = ("", "identity", "none", "utf-8", "utf8")
_GZIP_MAGIC = b"\x1f\x8b"
MAX_PROBLEM_CHARS = 120
_GZIP_NAMES = ("gzip", "x-gzip")


class CorruptBodyError(ValueError):
    """A compressed body does not decompress."""


class BodyReader:
    """Reads the bodies of one proxy. limit_bytes: of a body, decompressed; texts_limit_bytes: of its texts, parsed."""

    def __init__(self, limit_bytes: int, texts_limit_bytes: int) -> None:
        self._limit_bytes, self._texts_limit_bytes = limit_bytes, texts_limit_bytes
        self._parsing = asyncio.Lock()

    async def read(self, scope: Scope, receive: Receive, ticket: Ticket) -> bytes:
        """Return the body without its encoding. Raises ProxyError, BodyTooLargeError and ClientDisconnectedError.

        The rest of a body with too many JSON values is not kept.
        """
        encoding, counted = encoding_of(scope), ValueCount()

        def take(piece: bytes) -> None:
            ticket.hold(len(piece))
            counted.add(piece)

        try:
            data = await read_body(scope, receive, self._limit_bytes, ticket.hold_piece if encoding else take)
            return await decompress(data, encoding, self._limit_bytes, take) if encoding and data else data
        except TooManyValuesError as exc:
            raise too_many_values(MAX_JSON_VALUES) from exc
        except CorruptBodyError as exc:
            raise bad_request(f"the request body is not valid {encoding} data, as its content-encoding says") from exc

    async def parse(self, data: bytes, ticket: Ticket) -> Any:
        """Parse a JSON body. Raises ProxyError.

        A large one is parsed in a thread, and so is one that is no JSON as it is. orjson lets no other thread run
        meanwhile, but what is done before and after does, and one at a time bounds the memory.
        """
        try:
            if len(data) <= LARGE_BODY_BYTES:
                with suppress(orjson.JSONDecodeError):
                    return orjson.loads(data)
            async with self._parsing:
                body = await asyncio.to_thread(parse_json, data)
                size = await asyncio.to_thread(texts_size, body)
            if size > self._texts_limit_bytes:
                raise body_too_large(self._limit_bytes)
            ticket.hold(max(0, size - len(data)))
            return body
        except orjson.JSONDecodeError as exc:
            raise bad_request(_json_problem(data, exc)) from exc


def _json_problem(data: bytes, problem: ValueError) -> str:
    """Return what is wrong with a body that is no JSON, and where; none of its text."""
    if data.startswith(_GZIP_MAGIC):
        return "the request body is not valid JSON but gzip data; send `content-encoding: gzip` with it"
    if "UTF-8" in str(problem):
        return "the request body is not valid JSON: it is not in UTF-8, which JSON has to be"
    return f"the request body is not valid JSON: {str(problem)[:MAX_PROBLEM_CHARS]}"


def encoding_of(scope: Scope) -> str:
    """Return the encoding of a body, '' for none. Raises ProxyError for one that is not known here."""
    given = (header(scope, b"content-encoding") or b"").decode("latin-1")
    names = [name for part in given.lower().split(",") if (name := part.strip()) not in _NO_ENCODINGS]
    if not names:
        return ""
    if len(names) == 1 and names[0] in _GZIP_NAMES:
        return "gzip"
    if names == ["deflate"]:
        return "deflate"
    raise encoding_unsupported(given, ENCODINGS)


async def decompress(data: bytes, encoding: str, limit_bytes: int, take: Callable[[bytes], None]) -> bytes:
    """Return the data decompressed. take: is given each piece before it is kept, and may raise.

    Raises CorruptBodyError, and BodyTooLargeError.
    """
    pieces, size = [], 0
    for piece in _pieces(data, encoding):
        size += len(piece)
        if size > limit_bytes:
            raise BodyTooLargeError
        take(piece)
        pieces.append(piece)
        await asyncio.sleep(0)
    return b"".join(pieces)


def _pieces(data: bytes, encoding: str) -> Iterator[bytes]:
    """Yield the decompressed pieces. gzip data may consist of several members.

    zlib copies what it does not use of its input, so it is given little at a time.
    """
    at, members = 0, 0
    try:
        while at < len(data) and (encoding == "gzip" or not members):
            members += 1
            if members > MAX_MEMBERS:
                raise CorruptBodyError(f"the data has more than {MAX_MEMBERS} members")
            engine, given = zlib.decompressobj(_wbits(data, encoding)), b""
            while not engine.eof and (given or at < len(data)):
                if not given:
                    given = data[at : at + INPUT_BYTES]
                    at += len(given)
                yield engine.decompress(given, PIECE_BYTES)
                given = engine.unconsumed_tail
            if not engine.eof:
                yield engine.flush()
            if not engine.eof:
                raise CorruptBodyError("the data ends too early")
            at = _after_padding(data, at - len(engine.unused_data))
    except zlib.error as exc:
        raise CorruptBodyError(str(exc)) from exc


def _after_padding(data: bytes, at: int) -> int:
    """Return where the next member begins: some writers pad to a block with zeros."""
    found = _ZEROS.match(data, at)
    return found.end() if found else at


def _wbits(data: bytes, encoding: str) -> int:
    """Return zlib's window size. HTTP's deflate is zlib's format, but some clients send it without its head."""
    if encoding == "gzip":
        return _GZIP_WBITS
    has_head = len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return _ZLIB_WBITS if has_head else _RAW_WBITS
