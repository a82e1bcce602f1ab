"""Checks that a stream is legal, event by event, in each dialect. Pure: bytes in, events or IllegalStreamError out.

An error may come at any time and ends the stream; pings and comments may come anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from bouchet_proxy.streams.sse import Event, EventSplitter, parse

DONE = b"[DONE]"
STOP_REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"}
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "redacted_thinking": set[str](),
    "tool_use": {"input_json_delta"},
}
DELTA_FIELDS = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}


class IllegalStreamError(AssertionError):
    """An event came where the dialect does not allow it, or is missing."""


class StreamChecker(Protocol):
    """One stream: `take` each event, then `end`. Both raise IllegalStreamError."""

    def take(self, event: Event) -> None:
        """Check the next event."""

    def end(self) -> None:
        """Check that the stream was complete."""


def require(right: bool, what: str) -> None:
    """Raise IllegalStreamError unless `right`."""
    if not right:
        raise IllegalStreamError(what)


def checker_for(path: str) -> StreamChecker:
    """Return the checker for streams of this path."""
    bare = path.partition("?")[0].rstrip("/")
    if bare.endswith("/messages"):
        return MessageChecker()
    if bare.endswith("/chat/completions"):
        return ChatChecker()
    if bare.endswith("/responses"):
        return ResponseChecker()
    return CompletionChecker()


def check_stream(path: str, data: bytes, *, cut_off: bool = False) -> list[Event]:
    """Return the events of a legal stream, complete or ended by an error.

    cut_off: the client disconnected before the end.
    """
    splitter, checker = EventSplitter(), checker_for(path)
    found = [event for event in map(parse, splitter.feed(data)) if event.name or event.data]
    for event in found:
        try:
            checker.take(event)
        except (KeyError, TypeError, AttributeError) as exc:
            raise IllegalStreamError(f"{event.name} {event.data[:200]!r}: {exc!r}") from exc
    if not cut_off:
        require(not splitter.rest().strip(), "the stream ended within an event")
        checker.end()
    return found


def decoded(event: Event) -> dict[str, Any]:
    """Decode the event's JSON object."""
    try:
        data = event.json()
    except orjson.JSONDecodeError as exc:
        raise IllegalStreamError(f"not JSON: {event.data[:200]!r}") from exc
    require(isinstance(data, dict), f"not an object: {event.data[:200]!r}")
    return dict(data)


def check_usage(usage: object, *names: str) -> None:
    """Check token counts: these exist, whole and not negative."""
    require(isinstance(usage, dict), f"no usage: {usage!r}")
    assert isinstance(usage, dict)
    for name in names:
        count = usage.get(name)
        require(isinstance(count, int) and count >= 0, f"usage.{name} is {count!r}")


@dataclass
class MessageChecker:
    """Anthropic messages: message_start, blocks one after the other, message_delta with the usage, message_stop."""

    state: str = "before"
    block: str | None = None
    index: int = -1
    arguments: str = ""
    blocks: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def take(self, event: Event) -> None:
        """Implement StreamChecker."""
        data = decoded(event)
        require(data.get("type") == event.name, f"event {event.name!r} carries type {data.get('type')!r}")
        if event.name == "ping":
            return
        steps = {
            "message_start": self._message_start,
            "content_block_start": self._block_start,
            "content_block_delta": self._block_delta,
            "content_block_stop": self._block_stop,
            "message_delta": self._message_delta,
            "message_stop": self._message_stop,
            "error": self._error,
        }
        require(event.name in steps, f"unknown event {event.name!r}")
        require(self.state not in ("stopped", "failed"), f"{event.name} after the end")
        steps[event.name](data)

    def end(self) -> None:
        """Implement StreamChecker."""
        require(self.state in ("stopped", "failed"), f"the stream ended in state {self.state!r}")

    def _expect(self, right: bool, what: str) -> None:
        require(right, f"{what} in state {self.state!r}, block {self.block!r} at {self.index}")

    def _message_start(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "before", "message_start")
        message = data["message"]
        self._expect(message["type"] == "message" and message["role"] == "assistant", "an invalid message_start")
        self._expect(message["content"] == [] and not message.get("stop_reason"), "a filled message_start")
        self._expect(bool(message["id"] and message["model"]), "message_start without id or model")
        check_usage(message.get("usage"), "input_tokens", "output_tokens")
        self.state = "open"

    def _block_start(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "open" and self.block is None, "content_block_start")
        self._expect(data["index"] == self.index + 1, f"block index {data['index']}")
        block = data["content_block"]
        self.index, self.block, self.arguments = data["index"], block["type"], ""
        self._expect(self.block in DELTAS, f"a block of type {self.block!r}")
        if self.block == "tool_use":
            self._expect(bool(block["name"]) and block["input"] == {}, "an invalid tool_use block")
            self._expect(bool(block["id"]) and block["id"] not in self.ids, "a tool_use id that is not its own")
            self.ids.add(block["id"])
        self.blocks.append(str(self.block))

    def _block_delta(self, data: Mapping[str, Any]) -> None:
        self._expect(self.block is not None and data["index"] == self.index, f"delta at {data['index']}")
        delta = data["delta"]
        kind = delta["type"]
        self._expect(kind in DELTAS[str(self.block)], f"{kind} in a {self.block} block")
        name = DELTA_FIELDS.get(kind)
        self._expect(name is None or isinstance(delta.get(name), str), f"{kind} without {name}")
        self.arguments += delta["partial_json"] if kind == "input_json_delta" else ""

    def _block_stop(self, data: Mapping[str, Any]) -> None:
        self._expect(self.block is not None and data["index"] == self.index, "content_block_stop")
        if self.block == "tool_use" and self.arguments:
            try:
                self._expect(isinstance(orjson.loads(self.arguments), dict), "arguments are not an object")
            except orjson.JSONDecodeError as exc:
                raise IllegalStreamError(f"arguments are not JSON: {self.arguments[:200]}") from exc
        self.block = None

    def _message_delta(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "open" and self.block is None, "message_delta")
        check_usage(data.get("usage"), "output_tokens")
        reason = data["delta"].get("stop_reason")
        self._expect(reason in STOP_REASONS, f"stop_reason {reason!r}")
        self._expect(reason != "tool_use" or "tool_use" in self.blocks, "stop_reason tool_use without a tool")
        self.state = "closing"

    def _message_stop(self, data: Mapping[str, Any]) -> None:
        self._expect(self.state == "closing", "message_stop")
        self.state = "stopped"

    def _error(self, data: Mapping[str, Any]) -> None:
        error = data.get("error")
        self._expect(isinstance(error, dict) and bool(error.get("type") and error.get("message")), f"error {error!r}")
        self.state = "failed"


@dataclass
class CompletionChecker:
    """OpenAI completions: one object per event with one id, a finish for each choice, `[DONE]` last."""

    kind: str = "text_completion"
    identity: str | None = None
    open: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    usage_seen: bool = False
    failed: bool = False
    done: bool = False

    def take(self, event: Event) -> None:
        """Implement StreamChecker."""
        require(not self.done, "an event after [DONE]")
        require(not event.name, f"a named event {event.name!r}")
        if event.data == DONE:
            self._done()
            return
        require(not self.failed, "an event after the error")
        data = decoded(event)
        if "error" in data:
            error = data["error"]
            require(isinstance(error, dict) and bool(error.get("message") and error.get("type")), f"error {error!r}")
            self.failed = True
            return
        self._object(data)

    def end(self) -> None:
        """Implement StreamChecker."""
        require(self.done, "the stream ended without [DONE]")

    def _done(self) -> None:
        require(self.failed or bool(self.finished), "[DONE] before anything was finished")
        require(self.failed or self.open <= self.finished, f"choices {self.open - self.finished} never finished")
        self.done = True

    def _object(self, data: Mapping[str, Any]) -> None:
        require(data.get("object") == self.kind, f"object {data.get('object')!r}")
        require(bool(data.get("id")) and self.identity in (None, data["id"]), f"id {data.get('id')!r}")
        require(bool(data.get("model")), "no model")
        self.identity = data["id"]
        if data.get("usage") is not None:
            check_usage(data["usage"], "prompt_tokens", "completion_tokens", "total_tokens")
            self.usage_seen = True
        choices = data.get("choices")
        require(isinstance(choices, list), f"choices {choices!r}")
        require(bool(choices) or data.get("usage") is not None, "neither choices nor usage")
        for choice in choices or ():
            self._choice(choice["index"], choice)

    def _choice(self, index: int, choice: Mapping[str, Any]) -> None:
        require(index not in self.finished or self.is_empty(choice), f"choice {index} goes on after its finish")
        self.open.add(index)
        self.content(index, choice)
        reason = choice.get("finish_reason")
        if reason is not None:
            require(reason in FINISH_REASONS, f"finish_reason {reason!r}")
            self.finished.add(index)

    def is_empty(self, choice: Mapping[str, Any]) -> bool:
        """Return whether the choice adds nothing."""
        return not choice.get("text")

    def content(self, index: int, choice: Mapping[str, Any]) -> None:
        """Check what the choice adds."""
        require(isinstance(choice.get("text"), str), f"text {choice.get('text')!r}")


@dataclass
class ChatChecker(CompletionChecker):
    """OpenAI chat: deltas with a role first, tool calls that begin with id and name and end as JSON."""

    kind: str = "chat.completion.chunk"
    calls: dict[tuple[int, int], str] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)

    def is_empty(self, choice: Mapping[str, Any]) -> bool:
        """Override CompletionChecker."""
        delta = choice.get("delta") or {}
        return not delta.get("content") and not delta.get("tool_calls")

    def content(self, index: int, choice: Mapping[str, Any]) -> None:
        """Override CompletionChecker."""
        delta = choice.get("delta")
        require(isinstance(delta, dict), f"delta {delta!r}")
        assert isinstance(delta, dict)
        require(delta.get("role") in (None, "assistant"), f"role {delta.get('role')!r}")
        require(isinstance(delta.get("content"), str | None), f"content {delta.get('content')!r}")
        for call in delta.get("tool_calls") or ():
            self._call(index, call)
        if choice.get("finish_reason") == "tool_calls":
            require(any(of == index for of, _ in self.calls), "finish_reason tool_calls without a call")

    def _call(self, index: int, call: Mapping[str, Any]) -> None:
        place, function = (index, call["index"]), call.get("function") or {}
        if place not in self.calls:
            require(call["index"] == sum(of == index for of, _ in self.calls), f"tool call index {call['index']}")
            require(bool(call.get("id")) and call["id"] not in self.ids, "a tool call without an id of its own")
            require(bool(function.get("name")), "a tool call without a name")
            self.ids.add(call["id"])
            self.calls[place] = ""
        self.calls[place] += function.get("arguments") or ""

    def _done(self) -> None:
        super()._done()
        for arguments in self.calls.values() if not self.failed else ():
            try:
                orjson.loads(arguments or "{}")
            except orjson.JSONDecodeError as exc:
                raise IllegalStreamError(f"arguments are not JSON: {arguments[:200]}") from exc


@dataclass
class ResponseChecker:
    """OpenAI responses: named events in the order of their numbers, from created to completed, failed or incomplete."""

    state: str = "before"
    number: int = -1
    items: dict[int, str] = field(default_factory=dict)
    ended_items: set[int] = field(default_factory=set)

    def take(self, event: Event) -> None:
        """Implement StreamChecker."""
        if event.data == DONE:
            require(self.state == "ended", "[DONE] before the end")
            return
        require(self.state != "ended", "an event after the end")
        data = decoded(event)
        kind = str(data.get("type"))
        require(event.name in ("", kind), f"event {event.name!r} carries type {kind!r}")
        if kind == "error" or "error" in data:
            self.state = "ended"
            return
        self._in_order(data)
        self._step(kind, data)

    def end(self) -> None:
        """Implement StreamChecker."""
        require(self.state == "ended", f"the stream ended in state {self.state!r}")

    def _in_order(self, data: Mapping[str, Any]) -> None:
        number = data.get("sequence_number")
        require(number is None or number > self.number, f"sequence_number {number} after {self.number}")
        self.number = self.number if number is None else number

    def _step(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "response.created":
            require(self.state == "before", "created twice")
            self.state = "open"
            return
        require(self.state == "open", f"{kind} before response.created")
        place = data.get("output_index", -1)
        if kind == "response.output_item.added":
            require(place not in self.items, f"item {place} twice")
            self.items[place] = data["item"]["type"]
        elif kind == "response.output_item.done":
            require(place in self.items and place not in self.ended_items, f"item {place} ends")
            self.ended_items.add(place)
        elif kind.endswith(".delta"):
            require(place in self.items and place not in self.ended_items, f"{kind} for item {place}")
            require(isinstance(data.get("delta"), str), f"{kind} without delta")
        elif kind in ("response.completed", "response.failed", "response.incomplete"):
            require(kind != "response.completed" or self.items.keys() == self.ended_items, "items that never ended")
            self.state = "ended"
