"""The text of an answer as its client has it, kept while the stream passes, so that another server can go on with it.

A stream costs next to nothing per event because events are passed on undecoded. So they are kept as they are, and
decoded a few hundred at a time: the memory of a stream stays that of its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import orjson

from .sse import EventSplitter, parse

FOLD_BYTES = 32 << 10


class KeptText(ABC):
    """The text so far. is_plain: there was nothing else in the answer. count: of the events with text."""

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
        for raw in EventSplitter().feed(bytes(self._events)):
            try:
                found = self._text_of(parse(raw).json())
            except (orjson.JSONDecodeError, AttributeError):
                found = None
            self.is_plain = self.is_plain and found is not None
            if found:
                texts.append(found)
        self._events.clear()
        self.count += len(texts)
        self._texts = ["".join((*self._texts, *texts))]

    @abstractmethod
    def _text_of(self, data: Any) -> str | None:
        """Return the text in the data of an event, '' if there is none, None if there is something else."""


class MessageText(KeptText):
    """The text of a message in Anthropic's dialect, of its content_block_delta events."""

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
        choice = next(iter(data.get("choices") or ()), None)
        if choice is None:
            return ""
        delta = choice.get("delta") or {}
        others = [delta.get(name) for name in ("tool_calls", "reasoning", "reasoning_content", "refusal")]
        return None if any(others) or choice.get("finish_reason") else str(delta.get("content") or "")
