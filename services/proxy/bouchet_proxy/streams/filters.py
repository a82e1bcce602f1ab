"""What happens to an answer on its way back: the client's own model name, no think blocks, never a silent end. Pure.

The same filters stand behind LiteLLM and behind the direct lane. A stream costs next to nothing per event: it is cut
into events, and only those that must change are decoded.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import orjson

from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.dialects.thinking import ThinkStripper, strip_thinking
from bouchet_proxy.dialects.usage_counts import Tokens, tokens_of
from bouchet_proxy.errors import Failure, cut_short, error_body, from_upstream
from bouchet_proxy.routing.table import Route

from .sse import Cutter, parse, render

DONE = b"data: [DONE]\n\n"
# quotes inside JSON strings are escaped, so this never matches in a text
_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')


class StreamFilter(ABC):
    """A stream of events on its way to the client. failure: what it told the client instead of a proper end."""

    def __init__(self, route: Route, shown: str) -> None:
        self._route = route
        self._model = b'"model":' + orjson.dumps(shown)
        self._cutter = Cutter()
        self._ended = False
        self._seen = 0
        self.failure: Failure | None = None

    def feed(self, piece: bytes) -> bytes:
        """What the client gets for these bytes; b'' while an event is incomplete."""
        events = self._cutter.feed(piece)
        self._seen += len(events)
        return b"".join([self._event(raw) for raw in events])

    def finish(self) -> bytes:
        """What the client still gets when the server has closed: an error, unless the stream had its proper end."""
        return b"" if self._ended else self._end_with(cut_short(self._route.alias))

    @abstractmethod
    def tokens(self) -> Tokens:
        """What the stream said of its tokens so far; to be asked when the client has its bytes."""

    @abstractmethod
    def _event(self, raw: bytes) -> bytes:
        """What the client gets for one event."""

    @abstractmethod
    def _failed(self, failure: Failure) -> bytes:
        """The end of this stream, in the dialect's words."""

    def _end_with(self, failure: Failure) -> bytes:
        self._ended, self.failure = True, failure
        return self._failed(failure)

    def _named(self, raw: bytes) -> bytes:
        """The event under the model's name as its client wrote it."""
        return _MODEL.sub(lambda _: self._model, raw, count=1)


def stream_filter(
    dialect: Dialect, route: Route, shown: str, hide_usage: bool = False, opened: bool = False
) -> StreamFilter:
    """The filter for that dialect. shown: the model's name as its client wrote it; hide_usage: nobody asked for it.

    opened: the prompt ended inside a think block.
    """
    if dialect is Dialect.ANTHROPIC:
        return AnthropicStream(route, shown, opened)
    return OpenAIStream(route, shown, hide_usage, opened)


def failure_events(endpoint: Endpoint | None, dialect: Dialect, failure: Failure) -> bytes:
    """The end of a stream that failed, as its clients expect it."""
    if dialect is Dialect.ANTHROPIC:
        return render("error", error_body(dialect, failure))
    if endpoint is Endpoint.RESPONSES:
        error = {"code": failure.code or "server_error", "message": failure.message, "param": None}
        return render("error", {"type": "error", "sequence_number": 0, **error})
    return render("", error_body(dialect, failure)) + DONE


def whole_answer(
    endpoint: Endpoint, body: bytes, route: Route, shown: str, opened: bool = False
) -> tuple[bytes, Tokens]:
    """A complete answer as the client gets it, and its tokens; what is no JSON object passes untouched."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body, Tokens()
    if not isinstance(answer, dict):
        return body, Tokens()
    if "model" in answer:
        answer["model"] = shown
    if _may_think(route):
        if endpoint is Endpoint.MESSAGES:
            _strip_blocks(answer, opened)
        elif endpoint is Endpoint.CHAT:
            _strip_choices(answer, opened)
    return orjson.dumps(answer), tokens_of(answer.get("usage"))


def _without_usage(raw: bytes) -> bytes:
    """A chunk without the usage that its reader did not ask for; b'' where nothing else is in it."""
    data = parse(raw).json()
    data.pop("usage", None)
    told = [choice for choice in data.get("choices") or () if choice.get("finish_reason") or _says(choice)]
    return render("", data) if told else b""


def _says(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(value for word, value in delta.items() if word != "role"))


def _may_think(route: Route) -> bool:
    return route.traits.thinking != "none"


def _strip_blocks(answer: dict[str, Any], opened: bool) -> None:
    blocks = answer.get("content")
    if not isinstance(blocks, list):
        return
    for block in blocks:
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
            block["text"] = strip_thinking(block["text"], opened)
            opened = False


def _strip_choices(answer: dict[str, Any], opened: bool) -> None:
    for choice in answer.get("choices") or ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            message["content"] = strip_thinking(message["content"], opened)


class AnthropicStream(StreamFilter):
    """The filter for Anthropic's streams."""

    def __init__(self, route: Route, shown: str, opened: bool = False) -> None:
        super().__init__(route, shown)
        self._thinks, self._opened = _may_think(route), opened
        self._stripper: ThinkStripper | None = None
        self._index = 0
        self._usage_events: list[bytes] = []

    def tokens(self) -> Tokens:
        """See StreamFilter. Of a stream that broke off every event counts as a token."""
        usages = [parse(raw).json() for raw in self._usage_events]
        found = [tokens_of(data.get("usage") or (data.get("message") or {}).get("usage")) for data in usages]
        if not found:
            return Tokens()
        return found[-1] if len(found) > 1 else replace(found[0], output=max(0, self._seen - 2))

    def _failed(self, failure: Failure) -> bytes:
        return failure_events(None, Dialect.ANTHROPIC, failure)

    def _event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"event: content_block_delta"):
            return raw if self._stripper is None else self._delta(raw)
        if raw.startswith(b"event: content_block_st"):
            return self._block_border(raw)
        if raw.startswith(b"event: message_start"):
            self._usage_events.append(raw)
            return self._named(raw)
        if raw.startswith(b"event: message_stop"):
            self._ended = True
            return raw
        if raw.startswith(b"event: message_delta"):
            self._usage_events.append(raw)
            return raw
        if raw.startswith(b"event: ping"):
            return raw
        return self._other(raw)

    def _block_border(self, raw: bytes) -> bytes:
        if raw.startswith(b"event: content_block_start"):
            if self._thinks and b'"type":"text"' in raw.replace(b" ", b""):
                self._stripper, self._opened = ThinkStripper(self._opened), False
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
        return self._end_with(from_upstream(500, data, self._route.alias))


class OpenAIStream(StreamFilter):
    """The filter for OpenAI's streams: one JSON object an event, `[DONE]` at the end."""

    def __init__(self, route: Route, shown: str, hide_usage: bool = False, opened: bool = False) -> None:
        super().__init__(route, shown)
        self._thinks, self._hide_usage, self._opened = _may_think(route), hide_usage, opened
        self._strippers: dict[int, ThinkStripper] = {}
        self._usage_event = b""

    def tokens(self) -> Tokens:
        """See StreamFilter. Of a stream that broke off every event counts as a token."""
        if not self._usage_event:
            return Tokens(output=self._seen)
        return tokens_of(parse(self._usage_event).json().get("usage"))

    def _failed(self, failure: Failure) -> bytes:
        return failure_events(None, Dialect.OPENAI, failure)

    def _event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"data: [DONE]"):
            self._ended = True
            return raw
        if raw.startswith((b'data: {"error"', b'data: {"type":"error"')):
            return self._end_with(from_upstream(500, parse(raw).data, self._route.alias))
        if b'"usage":{' in raw:
            self._usage_event = raw
            if self._hide_usage:
                raw = _without_usage(raw)
        raw = self._named(raw)
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
            stripper = self._strippers.setdefault(choice.get("index", 0), ThinkStripper(self._opened))
            if isinstance(delta.get("content"), str):
                delta["content"] = stripper.feed(delta["content"])
            if choice.get("finish_reason"):
                rest = stripper.finish()
                if rest:
                    delta["content"] = (delta.get("content") or "") + rest
        return render("", data)
