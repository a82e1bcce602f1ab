"""Server-sent events: splitting a byte stream into events, parsing and rendering them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

# how a raw event begins; a comment, or a bare `retry:` or `id:`, is none
EVENT_STARTS = (b"data:", b"event:")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name ('' when it has none) and its data, undecoded."""

    name: str
    data: bytes

    def json(self) -> Any:
        """Decode the data. Raises orjson.JSONDecodeError."""
        return orjson.loads(self.data)


class EventSplitter:
    """Splits bytes that arrive in pieces of any size into raw events, each with its final blank line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the events that this piece completes."""
        if b"\r" in piece or self._rest.endswith(b"\r"):
            return self._feed_crlf(piece)
        if not self._rest and piece.find(b"\n\n") == len(piece) - 2 > 0:
            # as a model sends them: one at a time
            return [piece]
        *complete, self._rest = (self._rest + piece).split(b"\n\n")
        return [event + b"\n\n" for event in complete if event]

    def rest(self) -> bytes:
        """Return and forget the incomplete event at the end."""
        rest, self._rest = self._rest, b""
        return rest

    def _feed_crlf(self, piece: bytes) -> list[bytes]:
        text = (self._rest + piece).replace(b"\r\n", b"\n")
        *complete, self._rest = text.split(b"\n\n")
        return [event + b"\n\n" for event in complete if event]


def parse(raw: bytes) -> Event:
    """Parse one raw event; comments and unknown fields are skipped."""
    name, data = "", []
    for line in raw.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
    return Event(name, b"\n".join(data))


def is_json(data: bytes) -> bool:
    """Return whether the data of an event is whole JSON."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def compact(raw: bytes) -> bytes:
    """Return an event as vLLM would write it: a space behind `data:`, none in its JSON. Comments and texts are kept."""
    event = parse(raw)
    if not event.data:
        return raw
    try:
        return render(event.name, event.json())
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        head = b"event: " + event.name.encode() + b"\n" if event.name else b""
        return head + b"data: " + event.data.replace(b"\n", b"\ndata: ") + b"\n\n"


def render(name: str, value: object) -> bytes:
    """Render an event as bytes; without a name only its data line."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + orjson.dumps(value) + b"\n\n"


def parse_stream(stream: Iterable[bytes]) -> list[Event]:
    """Parse all events of a whole stream."""
    splitter = EventSplitter()
    return [parse(raw) for piece in stream for raw in splitter.feed(piece)]
