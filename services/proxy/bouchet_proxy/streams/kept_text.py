"""The text of an answer as its client has it, kept while the stream passes, so that another server can go on with it.

A stream costs next to nothing per event because events are passed on undecoded. So they are kept as they are, and
decoded a few hundred at a time: the memory of a stream stays that of its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import orjson

from .sse import EVENT_STARTS, EventSplitter, parse

FOLD_BYTES = 32 << 10
# of a delta
_PLAIN_FIELDS = frozenset(("role", "content"))
_OTHER_FIELDS = ("tool_calls", "reasoning", "reasoning_content", "refusal")


def _decode(raw: bytes) -> Any:
    try:
        return parse(raw).json()
    except orjson.JSONDecodeError:
        return None


class KeptText(ABC):
    """The text so far. is_plain: there was nothing else in the answer. count: of the events with text.

    usual_head: how an event begins, before its data.
    """

    usual_head = b"data: "

    def __init__(self) -> None:
        self._events = bytearray()
        self._texts: list[str] = []
        self.is_plain = True
        self.count = 0

    def add(self, events: bytes) -> None:
        """Keep what the client is sent."""
        self._events += events
        if len(self._events) > FOLD_BYTES:
            self._fold()

    def text(self) -> str:
        """Return the text."""
        self._fold()
        return "".join(self._texts)

    def _fold(self) -> None:
        texts: list[str] = []
        for data in self._decoded(bytes(self._events)):
            try:
                found = self._text_of(data)
            except (AttributeError, LookupError, TypeError):
                # an event of another shape
                found = None
            self.is_plain = self.is_plain and found is not None
            if found:
                texts.append(found)
        self._events.clear()
        self.count += len(texts)
        self._texts = ["".join((*self._texts, *texts))]

    def _decoded(self, events: bytes) -> list[Any]:
        """Return the data of the events, None for one that has no JSON.

        Events of the usual form are decoded as one list: one by one takes five times as long.
        """
        between = b"\n\n" + self.usual_head
        joined = events.removeprefix(self.usual_head).removesuffix(b"\n\n").replace(between, b",")
        try:
            found: list[Any] = orjson.loads(b"[" + joined + b"]")
        except orjson.JSONDecodeError:
            return [_decode(raw) for raw in EventSplitter().feed(events) if raw.startswith(EVENT_STARTS)]
        return found

    @abstractmethod
    def _text_of(self, data: Any) -> str | None:
        """Return the text in the data of an event, '' if there is none, None if there is something else."""


class MessageText(KeptText):
    """The text of a message in Anthropic's dialect, of its content_block_delta events."""

    usual_head = b"event: content_block_delta\ndata: "

    def _text_of(self, data: Any) -> str | None:
        delta = data.get("delta") or {}
        return str(delta.get("text") or "") if delta.get("type") == "text_delta" else None


class ChatText(KeptText):
    """The text of the one choice of a chat in OpenAI's dialect. head: what all of its chunks have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.head: dict[str, Any] = {}

    def _text_of(self, data: Any) -> str | None:
        self.head = self.head or {name: data[name] for name in ("id", "created") if name in data}
        choices = data.get("choices")
        if not choices:
            return ""
        delta = choices[0].get("delta") or {}
        is_plain = delta.keys() <= _PLAIN_FIELDS or not any(delta.get(name) for name in _OTHER_FIELDS)
        return str(delta.get("content") or "") if is_plain and not choices[0].get("finish_reason") else None
