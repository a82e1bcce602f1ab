"""Filters for streams on their way to the client: they rename the model, remove think blocks, and add a missing end.

The same filters apply to both backends. A stream costs next to nothing per event: it is split into events, and only
those that must change are decoded.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import orjson

from bouchet_proxy.dialects.continuation import PartialAnswer
from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.dialects.thinking import ThinkStripper
from bouchet_proxy.dialects.tokens import TokenCounts, parse_usage
from bouchet_proxy.errors import ProxyError, stream_interrupted
from bouchet_proxy.routing.table import Route
from bouchet_proxy.upstream_errors import error_from_upstream

from .error_events import DONE, SERVER_ERROR, error_events
from .kept_text import ChatText, MessageText
from .sse import EVENT_STARTS, EventSplitter, compact, is_json, parse, render

# quotes inside JSON strings are escaped, so this never matches inside a text
_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')

_TEXT_BLOCK = b'"type":"text"'
_EMPTY_DELTAS = {
    "text": {"type": "text_delta", "text": ""},
    "thinking": {"type": "thinking_delta", "thinking": ""},
    "tool_use": {"type": "input_json_delta", "partial_json": ""},
}
ERROR_PREFIXES = (b'data: {"error"', b'data: {"type":"error"', b"event: error")
# of a choice that is complete
_FINISHED = re.compile(rb'"finish_reason":"')


class StreamFilter(ABC):
    """A stream of events on its way to the client. error: what the client got instead of a proper end.

    model_name: the model's name as the client wrote it, which replaces vLLM's. withholds: an error of the server is
    not passed on before `finish`, as the answer may be continued by another server.
    """

    withholds = False

    def __init__(self, route: Route, model_name: str) -> None:
        self._route = route
        self._model = b'"model":' + orjson.dumps(model_name)
        # as vLLM writes it; the expression below is for other servers, and three times as slow
        self._upstream_model = b'"model":' + orjson.dumps(route.alias)
        self._is_same_model = self._model == self._upstream_model
        self._splitter = EventSplitter()
        self._ended = False
        self._event_count = 0
        self._withheld = False
        self.error: ProxyError | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the client has been sent an event."""
        return self._event_count > 0

    @property
    def has_content(self) -> bool:
        """Whether the client has a part of the answer itself, so that another answer cannot take its place."""
        return self._event_count > 0

    def keep_alive(self) -> bytes:
        """Return an event without content that clients count as one, b'' where the stream allows none now."""
        return b""

    def feed(self, piece: bytes) -> bytes:
        """Return what the client gets for these bytes; b'' while an event is incomplete."""
        events = self._splitter.feed(piece)
        if self._route.attached:
            # another server than vLLM, with spaces where it likes: what follows looks for bytes
            events = [compact(raw) for raw in events]
        if len(events) == 1:
            self._event_count += events[0].startswith(EVENT_STARTS)
            return self._filter_event(events[0])
        for raw in events:
            # comments and bare fields are no part of the answer: servers and relays send some while they wait
            self._event_count += raw.startswith(EVENT_STARTS)
        return b"".join([self._filter_event(raw) for raw in events])

    def finish(self) -> bytes:
        """Return what the client still gets when the server has closed: an error, unless the stream had its end."""
        last = b"" if self._ended else self._feed_rest()
        if not self._ended:
            self._end_with(stream_interrupted(self._route.alias))
            self._withheld = True
        return last + (self._render_error(self.error) if self.error is not None and self._withheld else b"")

    def _feed_rest(self) -> bytes:
        """Return what the client gets for a whole event without the blank line behind it, as some servers end."""
        rest = parse(self._splitter.rest()) if self._route.attached else None
        if rest is None or not (rest.data == b"[DONE]" or is_json(rest.data)):
            return b""
        head = b"event: " + rest.name.encode() + b"\n" if rest.name else b""
        return self.feed(head + b"data: " + rest.data + b"\n\n")

    def partial(self) -> PartialAnswer | None:
        """Return what the client has, None where no server can go on behind it."""
        return None

    @abstractmethod
    def tokens(self) -> TokenCounts:
        """Return the token counts in the stream so far; called when the client has its bytes."""

    @abstractmethod
    def _filter_event(self, raw: bytes) -> bytes:
        """Return what the client gets for one event."""

    @abstractmethod
    def _render_error(self, error: ProxyError) -> bytes:
        """Render the end of this stream as an error of its dialect."""

    def _end_with(self, error: ProxyError) -> bytes:
        self._ended, self.error = True, error
        self._withheld = self.withholds and error.status >= SERVER_ERROR
        return b"" if self._withheld else self._render_error(error)

    def _rename_model(self, raw: bytes) -> bytes:
        if self._upstream_model in raw:
            return raw if self._is_same_model else raw.replace(self._upstream_model, self._model, 1)
        return _MODEL.sub(lambda _: self._model, raw, count=1)


def may_think(route: Route) -> bool:
    """Return whether the model's answers may contain think blocks."""
    return route.traits.thinking != "none"


class AnthropicStream(StreamFilter):
    """Removes think blocks from text blocks. starts_inside: the prompt ended inside a think block.

    begun: the client has the beginning of the message, from a server that ended before there was content.
    """

    def __init__(self, route: Route, model_name: str, starts_inside: bool = False, begun: bool = False) -> None:
        super().__init__(route, model_name)
        self._may_think, self._starts_inside, self._begun = may_think(route), starts_inside, begun
        self._block, self._has_content = b"", False
        self._stripper: ThinkStripper | None = None
        self._index, self._delta_count = 0, 0
        self._usage_events: list[bytes] = []
        self._kept, self._last_block = MessageText(), b""

    @property
    def has_begun(self) -> bool:
        """Whether the client has the beginning of the message: a ping may come before it."""
        return bool(self._usage_events)

    @property
    def has_content(self) -> bool:
        """Whether a block has begun; the beginning of a message is the same in every answer."""
        return self._has_content

    def keep_alive(self) -> bytes:
        """Return an empty delta of the open block: Claude Code gives up after 300 s, and pings are no events to it."""
        if not self._block or self._stripper is not None:
            return b""
        data = parse(self._block).json()
        delta = _EMPTY_DELTAS.get(str((data.get("content_block") or {}).get("type")))
        event = {"type": "content_block_delta", "index": data.get("index", 0), "delta": delta}
        return render("content_block_delta", event) if delta else b""

    def tokens(self) -> TokenCounts:
        """Return the counts of the last usage; in a stream that was interrupted, every delta counts as a token."""
        usages = [parse(raw).json() for raw in self._usage_events]
        counts = [parse_usage(data.get("usage") or (data.get("message") or {}).get("usage")) for data in usages]
        if not counts:
            return TokenCounts()
        return counts[-1] if len(counts) > 1 else replace(counts[0], output=self._delta_count)

    def partial(self) -> PartialAnswer | None:
        """Return the text that the client has; None within a think block, and after a tool call or thinking."""
        text = self._kept.text()
        if not self._has_content or not self._kept.is_plain or self._stripper is not None:
            return None
        counts = replace(self.tokens(), output=self._kept.count)
        index = parse(self._last_block).json().get("index", 0)
        return PartialAnswer(text, self._route.model, counts, index, bool(self._block))

    def _render_error(self, error: ProxyError) -> bytes:
        return error_events(None, Dialect.ANTHROPIC, error)

    def _filter_event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"event: content_block_delta"):
            self._delta_count += 1
            passed = raw if self._stripper is None else self._filter_delta(raw)
            if self.withholds:
                self._kept.add(passed)
            return passed
        if raw.startswith(b"event: content_block_st"):
            return self._filter_block_border(raw)
        if raw.startswith(b"event: message_start"):
            self._usage_events.append(raw)
            return b"" if self._begun else self._rename_model(raw)
        if raw.startswith(b"event: message_stop"):
            self._ended = True
            return raw
        if raw.startswith(b"event: message_delta"):
            self._usage_events.append(raw)
            # of a request that vLLM aborted, as when its job is ended
            is_aborted = b'"stop_reason":null' in raw
            return self._end_with(stream_interrupted(self._route.alias)) if is_aborted else raw
        if raw.startswith(b"event: ping"):
            return raw
        return self._filter_other(raw)

    def _filter_block_border(self, raw: bytes) -> bytes:
        self._block = b""
        if raw.startswith(b"event: content_block_start"):
            self._block, self._last_block, self._has_content = raw, raw, True
            self._kept.is_plain = self._kept.is_plain and _TEXT_BLOCK in raw.replace(b" ", b"")
            if self._may_think and _TEXT_BLOCK in raw.replace(b" ", b""):
                self._stripper, self._starts_inside = ThinkStripper(self._starts_inside), False
            return raw
        rest = self._text_delta(rest) if self._stripper is not None and (rest := self._stripper.finish()) else b""
        self._stripper = None
        self._kept.add(rest)
        return rest + raw

    def _filter_delta(self, raw: bytes) -> bytes:
        assert self._stripper is not None
        data = parse(raw).json()
        delta = data.get("delta") or {}
        if delta.get("type") != "text_delta":
            return raw
        self._index = data.get("index", 0)
        visible = self._stripper.feed(delta.get("text", ""))
        if self._stripper.passing:
            self._stripper = None
        return self._text_delta(visible) if visible else b""

    def _text_delta(self, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return render("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})

    def _filter_other(self, raw: bytes) -> bytes:
        """End the stream with an error of the dialect for an error of any shape; pass comments, drop the rest."""
        if not raw.startswith(EVENT_STARTS):
            return raw
        data = parse(raw).data
        if b"error" not in data[:200]:
            return b""
        return self._end_with(error_from_upstream(500, data, self._route.alias))


class OpenAIStream(StreamFilter):
    """The filter for chat and completions: one JSON object per event, `[DONE]` at the end.

    hide_usage: the client did not ask for the token counts. starts_inside: the prompt ended inside a think block.
    choices: how many answers come side by side, by their index. dialect: in which the client reads an error.
    """

    def __init__(
        self,
        route: Route,
        model_name: str,
        hide_usage: bool = False,
        starts_inside: bool = False,
        choices: int = 1,
        dialect: Dialect = Dialect.OPENAI,
    ) -> None:
        super().__init__(route, model_name)
        self._choices, self._dialect = choices, dialect
        self._may_think, self._hide_usage, self._starts_inside = may_think(route), hide_usage, starts_inside
        self._strippers: dict[int, ThinkStripper] = {}
        self._usage_event, self._finished = b"", 0
        self._kept = ChatText()

    def tokens(self) -> TokenCounts:
        """Return the counts of the usage event; in a stream that was interrupted, every event counts as a token."""
        if not self._usage_event:
            return TokenCounts(output=self._event_count)
        return parse_usage(parse(self._usage_event).json().get("usage"))

    def _feed_rest(self) -> bytes:
        """Add the end that some servers leave out when all answers are complete."""
        last = super()._feed_rest()
        if self._ended or self._finished < self._choices:
            return last
        self._ended = True
        return last + DONE

    def _render_error(self, error: ProxyError) -> bytes:
        return error_events(None, self._dialect, error)

    def _filter_event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if self._route.attached:
            self._finished += len(_FINISHED.findall(raw))
        if raw.startswith(b"data: [DONE]"):
            self._ended = True
            return raw
        if raw.startswith(ERROR_PREFIXES):
            return self._end_with(error_from_upstream(500, parse(raw).data, self._route.alias))
        if b'"usage":{' in raw:
            self._usage_event = raw
            if self._hide_usage:
                raw = _drop_usage(raw)
        if b'"finish_reason":"abort"' in raw:
            return self._end_with(stream_interrupted(self._route.alias))
        raw = self._rename_model(raw)
        if self._may_think:
            raw = self._filter_chunk(raw)
            # from then on every think block has ended
            self._may_think = not self._all_passing()
        if self.withholds:
            self._kept.add(raw)
        return raw

    def partial(self) -> PartialAnswer | None:
        """Return the text that the client has; None within a think block, and after a tool call or thinking."""
        text = self._kept.text()
        is_open = any(not stripper.passing for stripper in self._strippers.values())
        if not self._event_count or not self._kept.is_plain or is_open:
            return None
        return PartialAnswer(text, self._route.model, TokenCounts(output=self._kept.count), head=self._kept.head)

    def _all_passing(self) -> bool:
        strippers = self._strippers.values()
        return len(strippers) >= self._choices and all(stripper.passing for stripper in strippers)

    def _filter_chunk(self, raw: bytes) -> bytes:
        try:
            data = parse(raw).json()
        except orjson.JSONDecodeError:
            return raw
        for choice in data.get("choices") or ():
            delta = choice.setdefault("delta", {})
            stripper = self._strippers.setdefault(choice.get("index", 0), ThinkStripper(self._starts_inside))
            if isinstance(delta.get("content"), str):
                delta["content"] = stripper.feed(delta["content"])
            if choice.get("finish_reason"):
                rest = stripper.finish()
                if rest:
                    delta["content"] = (delta.get("content") or "") + rest
        return render("", data)


class CompletionStream(OpenAIStream):
    """The filter for completions: their text is the prompt's continuation, in which a think block is text like any."""

    def __init__(self, route: Route, model_name: str, hide_usage: bool = False) -> None:
        super().__init__(route, model_name, hide_usage)
        self._may_think = False


def _drop_usage(raw: bytes) -> bytes:
    """Return a chunk without its usage; b'' where nothing else is in it."""
    data = parse(raw).json()
    data.pop("usage", None)
    filled = [choice for choice in data.get("choices") or () if choice.get("finish_reason") or _has_content(choice)]
    return render("", data) if filled else b""


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(value for name, value in delta.items() if name != "role"))
