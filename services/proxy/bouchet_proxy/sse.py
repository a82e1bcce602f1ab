"""Server-sent events: cutting a byte stream into events, and checking that a stream is a legal one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name ('' when it has none) and its data, undecoded."""

    name: str
    data: bytes

    def json(self) -> Any:
        """The data as JSON; raises orjson.JSONDecodeError."""
        return orjson.loads(self.data)


class Cutter:
    """Cuts bytes that arrive in pieces of any size into whole raw events, each with its final blank line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that this piece completes."""
        if b"\r" in piece or self._rest.endswith(b"\r"):
            return self._feed_crlf(piece)
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        return [event + b"\n\n" for event in whole if event]

    def rest(self) -> bytes:
        """What is left of an event that never ended."""
        rest, self._rest = self._rest, b""
        return rest

    def _feed_crlf(self, piece: bytes) -> list[bytes]:
        text = (self._rest + piece).replace(b"\r\n", b"\n")
        *whole, self._rest = text.split(b"\n\n")
        return [event + b"\n\n" for event in whole if event]


def parse(raw: bytes) -> Event:
    """The event in these raw bytes; comments and unknown fields are skipped."""
    name, data = "", []
    for line in raw.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
    return Event(name, b"\n".join(data))


def render(name: str, value: object) -> bytes:
    """The event as bytes; without a name only its data line."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + orjson.dumps(value) + b"\n\n"


def events(stream: Iterable[bytes]) -> list[Event]:
    """All events of a whole stream."""
    cutter = Cutter()
    return [parse(raw) for piece in stream for raw in cutter.feed(piece)]


class IllegalStream(AssertionError):
    """An event came where the dialect allows none."""


_DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


@dataclass
class Checker:
    """The state machine of an Anthropic message stream. `take` raises IllegalStream at the first wrong event."""

    state: str = "before"
    block: str | None = None
    index: int = -1
    arguments: bytes = b""
    blocks: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Goes on by one event."""
        if event.name == "ping":
            return
        data = event.json()
        if data.get("type") != event.name:
            raise IllegalStream(f"event {event.name!r} carries type {data.get('type')!r}")
        step = getattr(self, f"_{event.name}", None)
        if step is None:
            raise IllegalStream(f"unknown event {event.name!r}")
        if self.state in ("stopped", "failed"):
            raise IllegalStream(f"{event.name} after the end")
        step(data)

    def end(self) -> None:
        """The stream has ended; it must have said so."""
        if self.state not in ("stopped", "failed"):
            raise IllegalStream(f"the stream ended in state {self.state!r}")

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            raise IllegalStream(f"{what} in state {self.state!r}, block {self.block!r} at {self.index}")

    def _message_start(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "before", "message_start")
        message = data["message"]
        self._expect(message["role"] == "assistant" and message["content"] == [], "a filled message_start")
        self._expect({"input_tokens", "output_tokens"} <= set(message["usage"]), "message_start without usage")
        self.state = "open"

    def _content_block_start(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "open" and self.block is None, "content_block_start")
        self._expect(data["index"] == self.index + 1, f"block index {data['index']}")
        self.index, self.block, self.arguments = data["index"], data["content_block"]["type"], b""
        self.blocks.append(str(self.block))

    def _content_block_delta(self, data: Mapping[str, Any]) -> None:
        self._expect(self.block is not None and data["index"] == self.index, "content_block_delta")
        kind = data["delta"]["type"]
        self._expect(kind in _DELTAS.get(str(self.block), {kind}), f"{kind} in a {self.block} block")
        if kind == "input_json_delta":
            self.arguments += data["delta"]["partial_json"].encode()

    def _content_block_stop(self, data: Mapping[str, Any]) -> None:
        self._expect(self.block is not None and data["index"] == self.index, "content_block_stop")
        if self.block == "tool_use" and self.arguments:
            orjson.loads(self.arguments)
        self.block = None

    def _message_delta(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "open" and self.block is None, "message_delta")
        self._expect("output_tokens" in data["usage"], "message_delta without usage")
        self.state = "closing"

    def _message_stop(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "closing", "message_stop")
        self.state = "stopped"

    def _error(self, data: Mapping[str, Any]) -> None:
        self._expect({"type", "message"} <= set(data["error"]), "an error without words")
        self.state = "failed"
