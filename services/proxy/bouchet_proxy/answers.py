"""What happens to an answer on its way back: the client's own model name, no think blocks, never a silent end. Pure.

The same filters stand behind LiteLLM and behind the direct lane. A stream costs next to nothing per event: it is cut
into events, and only those that must change are decoded.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import orjson

from .dialects import Dialect, Endpoint
from .routing import Route
from .sse import Cutter, parse, render
from .thinking import ThinkStripper, strip_thinking
from .wording import cut_short, error_body, from_upstream

DONE = b"data: [DONE]\n\n"
# quotes inside JSON strings are escaped, so this never matches in a text
_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')


class StreamFilter(Protocol):
    """A stream of events on its way to the client."""

    def feed(self, piece: bytes) -> bytes:
        """What the client gets for these bytes; b'' while an event is incomplete."""

    def finish(self) -> bytes:
        """What the client still gets when the server has closed, in order or not."""


def stream_filter(dialect: Dialect, route: Route, shown: str) -> StreamFilter:
    """The filter for that dialect. shown: the model's name as the client wrote it."""
    if dialect is Dialect.ANTHROPIC:
        return AnthropicStream(route, shown)
    return OpenAIStream(route, shown)


def whole_answer(endpoint: Endpoint, body: bytes, route: Route, shown: str) -> bytes:
    """A complete answer as the client gets it; what is no JSON object passes untouched."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(answer, dict):
        return body
    if "model" in answer:
        answer["model"] = shown
    if _may_think(route):
        if endpoint is Endpoint.MESSAGES:
            _strip_blocks(answer)
        elif endpoint is Endpoint.CHAT:
            _strip_choices(answer)
    return orjson.dumps(answer)


def _may_think(route: Route) -> bool:
    return route.traits.thinking != "none"


def _strip_blocks(answer: dict[str, Any]) -> None:
    blocks = answer.get("content")
    if not isinstance(blocks, list):
        return
    for block in blocks:
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
            block["text"] = strip_thinking(block["text"])


def _strip_choices(answer: dict[str, Any]) -> None:
    for choice in answer.get("choices") or ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            message["content"] = strip_thinking(message["content"])


class AnthropicStream:
    """The filter for Anthropic's streams."""

    def __init__(self, route: Route, shown: str) -> None:
        self._route, self._thinks = route, _may_think(route)
        self._model = b'"model":' + orjson.dumps(shown)
        self._cutter = Cutter()
        self._stripper: ThinkStripper | None = None
        self._index = 0
        self._ended = False

    def feed(self, piece: bytes) -> bytes:
        """See StreamFilter."""
        return b"".join([self._event(raw) for raw in self._cutter.feed(piece)])

    def finish(self) -> bytes:
        """See StreamFilter. An error event, unless the stream had its proper end."""
        if self._ended:
            return b""
        self._ended = True
        return render("error", error_body(Dialect.ANTHROPIC, cut_short(self._route.alias)))

    def _event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"event: content_block_delta"):
            return raw if self._stripper is None else self._delta(raw)
        if raw.startswith(b"event: content_block_st"):
            return self._block_border(raw)
        if raw.startswith(b"event: message_start"):
            return _MODEL.sub(lambda _: self._model, raw, count=1)
        if raw.startswith(b"event: message_stop"):
            self._ended = True
            return raw
        if raw.startswith((b"event: message_delta", b"event: ping")):
            return raw
        return self._other(raw)

    def _block_border(self, raw: bytes) -> bytes:
        if raw.startswith(b"event: content_block_start"):
            self._stripper = ThinkStripper() if self._thinks and b'"type":"text"' in raw.replace(b" ", b"") else None
            return raw
        rest = self._stripper.finish() if self._stripper is not None else ""
        self._stripper = None
        return self._text(rest) + raw if rest else raw

    def _delta(self, raw: bytes) -> bytes:
        assert self._stripper is not None
        data = parse(raw).json()
        delta = data.get("delta") or {}
        if delta.get("type") != "text_delta":
            return raw
        self._index = data.get("index", 0)
        shown = self._stripper.feed(delta.get("text", ""))
        if self._stripper.passing:
            self._stripper = None
        return self._text(shown) if shown else b""

    def _text(self, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return render("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})

    def _other(self, raw: bytes) -> bytes:
        """An error in any shape becomes one of the dialect and ends the stream; comments pass, the rest is dropped."""
        if raw.startswith(b":"):
            return raw
        data = parse(raw).data
        if b"error" not in data[:200]:
            return b""
        self._ended = True
        return render("error", error_body(Dialect.ANTHROPIC, from_upstream(500, data, self._route.alias)))


class OpenAIStream:
    """The filter for OpenAI's streams: one JSON object an event, `[DONE]` at the end."""

    def __init__(self, route: Route, shown: str) -> None:
        self._route, self._thinks = route, _may_think(route)
        self._model = b'"model":' + orjson.dumps(shown)
        self._cutter = Cutter()
        self._strippers: dict[int, ThinkStripper] = {}
        self._ended = False

    def feed(self, piece: bytes) -> bytes:
        """See StreamFilter."""
        return b"".join([self._event(raw) for raw in self._cutter.feed(piece)])

    def finish(self) -> bytes:
        """See StreamFilter. An error object and `[DONE]`, unless the stream had its proper end."""
        if self._ended:
            return b""
        self._ended = True
        return render("", error_body(Dialect.OPENAI, cut_short(self._route.alias))) + DONE

    def _event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"data: [DONE]"):
            self._ended = True
            return raw
        if raw.startswith((b'data: {"error"', b'data: {"type":"error"')):
            failure = from_upstream(500, parse(raw).data, self._route.alias)
            self._ended = True
            return render("", error_body(Dialect.OPENAI, failure)) + DONE
        if b'"type":"response.' in raw[:200] or raw.startswith(b"event: response."):
            self._ended = self._ended or b"response.completed" in raw[:200] or b"response.failed" in raw[:200]
        raw = _MODEL.sub(lambda _: self._model, raw, count=1)
        if self._thinks and not self._all_passing():
            return self._chunk(raw)
        return raw

    def _all_passing(self) -> bool:
        return bool(self._strippers) and all(stripper.passing for stripper in self._strippers.values())

    def _chunk(self, raw: bytes) -> bytes:
        try:
            data = parse(raw).json()
        except orjson.JSONDecodeError:
            return raw
        for choice in data.get("choices") or ():
            delta = choice.setdefault("delta", {})
            stripper = self._strippers.setdefault(choice.get("index", 0), ThinkStripper())
            if isinstance(delta.get("content"), str):
                delta["content"] = stripper.feed(delta["content"])
            if choice.get("finish_reason"):
                rest = stripper.finish()
                if rest:
                    delta["content"] = (delta.get("content") or "") + rest
        return render("", data)
