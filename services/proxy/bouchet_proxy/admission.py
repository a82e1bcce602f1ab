"""What may be under way at a time, for each key and for all keys, and what a body may contain. Pure.

Everything here is asked before the memory or the time is spent: the gate before a body is read and at each of its
pieces, the number of JSON values while they come. A body counts until its request has ended, because a request that
waits for a model keeps it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orjson

# some editors and shells on Windows begin a file with it
UTF8_BOM = b"\xef\xbb\xbf"
# each of them becomes a Python object of 50 bytes or more
MAX_JSON_VALUES = 200_000
# bodies above this are parsed in a thread, one at a time
LARGE_BODY_BYTES = 1 << 20
_COUNTED = (b",", b"[", b"{")
# how escaped halves of characters begin, and a pair of them, which is a character
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_REPLACEMENT = rb"\ufffd"
# of escaped halves, in a body that has to be mended
MAX_SURROGATES = 100_000
# looked through at a time: no other thread runs within one search
_WINDOW_BYTES = 1 << 18


class TooMuchUnderWayError(Exception):
    """A request was not admitted. what: "requests" or "bytes of request bodies"; shared: the limit of all keys."""

    def __init__(self, what: str, limit: int, shared: bool) -> None:
        self.what, self.limit, self.shared = what, limit, shared
        super().__init__(f"{limit} {what} under way")


class TooManyValuesError(ValueError):
    """A body has more JSON values than MAX_JSON_VALUES."""


@dataclass(slots=True)
class Load:
    """Requests that have not ended, and the bytes of their bodies."""

    requests: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """The most that may be under way."""

    requests: int
    size_bytes: int


class Gate:
    """Counts what is under way. per_key: for each key but the owner's, which only has the limit of all."""

    def __init__(self, per_key: LoadLimits, total: LoadLimits) -> None:
        self._per_key, self._total_limits = per_key, total
        self._total = Load()
        self._loads: dict[str, Load] = {}

    @property
    def total(self) -> Load:
        """What is under way in all."""
        return self._total

    def enter(self, key_name: str, is_owner: bool) -> Ticket:
        """Admit a request of that key. Raises TooMuchUnderWayError."""
        load = self._loads.get(key_name) or Load()
        limits = self._total_limits if is_owner else self._per_key
        if load.requests >= limits.requests:
            raise TooMuchUnderWayError("requests", limits.requests, is_owner)
        if self._total.requests >= self._total_limits.requests:
            raise TooMuchUnderWayError("requests", self._total_limits.requests, True)
        self._loads[key_name] = load
        load.requests += 1
        self._total.requests += 1
        return Ticket(self, key_name, load, limits)

    def check(self, load: Load, limits: LoadLimits, more_bytes: int) -> None:
        """Raise TooMuchUnderWayError if that many more bytes exceed a limit."""
        if load.size_bytes + more_bytes > limits.size_bytes:
            raise TooMuchUnderWayError("bytes of request bodies", limits.size_bytes, limits is self._total_limits)
        if self._total.size_bytes + more_bytes > self._total_limits.size_bytes:
            raise TooMuchUnderWayError("bytes of request bodies", self._total_limits.size_bytes, True)

    def leave(self, key_name: str, load: Load, size_bytes: int) -> None:
        """Forget a request and its bytes."""
        for one in (load, self._total):
            one.requests -= 1
            one.size_bytes -= size_bytes
        if not load.requests:
            self._loads.pop(key_name, None)

    def hold(self, load: Load, size_bytes: int) -> None:
        """Count these bytes."""
        load.size_bytes += size_bytes
        self._total.size_bytes += size_bytes


class Ticket:
    """One admitted request. A context manager: it leaves the gate at the request's end."""

    def __init__(self, gate: Gate, key_name: str, load: Load, limits: LoadLimits) -> None:
        self._gate, self._key_name, self._load, self._limits = gate, key_name, load, limits
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.leave(self._key_name, self._load, self.held_bytes)

    def expect(self, size_bytes: int) -> None:
        """Raise TooMuchUnderWayError if that many bytes would be too many; nothing is counted before it comes."""
        self._gate.check(self._load, self._limits, size_bytes)

    def hold(self, size_bytes: int) -> None:
        """Count bytes that have come. Raises TooMuchUnderWayError."""
        self._gate.check(self._load, self._limits, size_bytes)
        self._gate.hold(self._load, size_bytes)
        self.held_bytes += size_bytes

    def hold_piece(self, piece: bytes) -> None:
        """Count a piece of a body. Raises TooMuchUnderWayError."""
        self.hold(len(piece))


class ValueCount:
    """Counts the JSON values of a body while its pieces come, so that no more of it is read than it may have.

    Those characters within texts count, too. A body of fewer bytes than MAX_JSON_VALUES is not looked at.
    """

    def __init__(self) -> None:
        self._uncounted: list[bytes] = []
        self._size_bytes = self._count = 0

    def add(self, piece: bytes) -> None:
        """Count a piece. Raises TooManyValuesError."""
        self._size_bytes += len(piece)
        self._uncounted.append(piece)
        if self._size_bytes <= MAX_JSON_VALUES:
            return
        self._count += sum(one.count(value) for one in self._uncounted for value in _COUNTED)
        self._uncounted.clear()
        if self._count > MAX_JSON_VALUES:
            raise TooManyValuesError


def parse_json(data: bytes) -> Any:
    """Parse a body. Raises orjson.JSONDecodeError.

    JavaScript writes half of a character where a program cut a text within it; the text is in the conversation from
    then on. JSON has no such halves: they become the replacement character.
    """
    data = data.removeprefix(UTF8_BOM)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = _with_whole_characters(data)
        if whole is None:
            raise
        return orjson.loads(whole)


def _with_whole_characters(data: bytes) -> bytes | None:
    """Return the text of a JSON document with each half of a character replaced, None if it has none or too many."""
    pieces: list[bytes] = []
    at, has_half = 0, False
    for number, place in enumerate(_surrogates(data)):
        if number >= MAX_SURROGATES:
            return None
        if place < at:
            # the second half of a pair
            continue
        before = data[at:place]
        found = _PAIR.match(data, place) or _HALF.match(data, place)
        # behind an odd number of backslashes it is text
        if found is None or (len(before) - len(before.rstrip(b"\\"))) % 2:
            pieces.append(before)
            at = place
            continue
        is_half = found.re is _HALF
        has_half = has_half or is_half
        pieces += [before, _REPLACEMENT if is_half else found[0]]
        at = found.end()
    return b"".join((*pieces, data[at:])) if has_half else None


def _surrogates(data: bytes) -> Iterator[int]:
    """Yield where escaped halves of characters may be."""
    for start in range(0, len(data), _WINDOW_BYTES):
        # as long as the pattern, beyond its first byte
        for found in _SURROGATE.finditer(data, start, start + _WINDOW_BYTES + 3):
            yield found.start()


def texts_size(value: Any) -> int:
    """Return the bytes that the texts of a parsed body take: one character beyond ASCII can make a text four times as
    large.
    """
    size, pending = 0, [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            size += sys.getsizeof(one)
        elif isinstance(one, dict | list):
            pending += _members(one)
    return size


def _members(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return (*value, *value.values()) if isinstance(value, dict) else value
