"""Filters for an answer that another server goes on with: its chat stream as the rest of the client's stream.

In Anthropic's dialect the text goes on in the block that is open; a tool call or the end of the message follows as
usual. In OpenAI's the chunks keep the id of the first ones. Thinking does not belong into the middle of an answer: it
ends the stream with an error.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import Any

import orjson

from bouchet_proxy.dialects.continuation import PartialAnswer
from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.dialects.tokens import TokenCounts, parse_usage
from bouchet_proxy.errors import ProxyError, stream_interrupted
from bouchet_proxy.routing.table import Route
from bouchet_proxy.upstream_errors import error_from_upstream

from .error_events import error_events
from .filters import ERROR_PREFIXES, OpenAIStream, StreamFilter
from .sse import EVENT_STARTS, parse, render

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
ABORTED = "abort"


class Seam:
    """Drops the white space that the client has already from the beginning of what follows."""

    def __init__(self, repeated: str) -> None:
        self._repeated = repeated

    def feed(self, text: str) -> str:
        """Return what is new of the text."""
        if not self._repeated or not text:
            return text
        pairs = zip(self._repeated, text, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._repeated = self._repeated[common:] if common == len(text) else ""
        return text[common:]


class ContinuedMessage(StreamFilter):
    """The rest of a message in Anthropic's dialect, made of a chat stream."""

    def __init__(self, route: Route, model_name: str, partial: PartialAnswer) -> None:
        super().__init__(route, model_name)
        self._before, self._seam = partial, Seam(partial.repeated)
        self._texts: list[str] = []
        self._index, self._block = partial.index, "text" if partial.is_open else ""
        self._has_tools = False
        # the call of the open tool_use block: its number in the chat stream
        self._call: int | None = None
        self._finish = ""
        self._stop_sequence: str | None = None
        self._usage: dict[str, Any] = {}

    @property
    def has_content(self) -> bool:
        """Whether the client has a part of the answer: it has the partial one."""
        return True

    def keep_alive(self) -> bytes:
        """Return an empty delta of the open text block."""
        return self._delta({"type": "text_delta", "text": ""}) if self._block == "text" else b""

    def tokens(self) -> TokenCounts:
        """Return the counts of all servers together."""
        return added_tokens(self._before.tokens, parse_usage(self._usage), self._event_count)

    def partial(self) -> PartialAnswer | None:
        """Return what the client has now, None where it cannot be continued once more."""
        if self._has_tools or self._finish:
            return None
        text = self._before.text + "".join(self._texts)
        tokens = replace(self._before.tokens, output=self._before.tokens.output + len(self._texts))
        return replace(self._before, text=text, tokens=tokens, index=self._index, is_open=self._block == "text")

    def _filter_event(self, raw: bytes) -> bytes:
        if self._ended or not raw.startswith(EVENT_STARTS):
            return b"" if self._ended else raw
        if raw.startswith(b"data: [DONE]"):
            return self._end()
        if raw.startswith(ERROR_PREFIXES):
            return self._end_with(error_from_upstream(500, parse(raw).data, self._route.alias))
        chunk = parse(raw).json()
        self._usage = chunk.get("usage") or self._usage
        return b"".join(self._filter_choice(choice) for choice in (chunk.get("choices") or ())[:1])

    def _filter_choice(self, choice: dict[str, Any]) -> bytes:
        delta = choice.get("delta") or {}
        if delta.get("reasoning") or delta.get("reasoning_content"):
            return self._end_with(stream_interrupted(self._route.alias))
        events = self._add_text(delta.get("content") or "")
        for call in delta.get("tool_calls") or ():
            events += self._add_call(call)
        self._finish = choice.get("finish_reason") or self._finish
        stop = choice.get("stop_reason")
        self._stop_sequence = stop if isinstance(stop, str) else self._stop_sequence
        if self._finish == ABORTED:
            self._finish = ""
            return events + self._end_with(stream_interrupted(self._route.alias))
        return events

    def _add_text(self, content: str) -> bytes:
        text = self._seam.feed(content)
        if not text:
            return b""
        start = b"" if self._block == "text" else self._start_block({"type": "text", "text": ""})
        self._texts.append(text)
        return start + self._delta({"type": "text_delta", "text": text})

    def _add_call(self, call: dict[str, Any]) -> bytes:
        function = call.get("function") or {}
        events = b""
        if call.get("index") != self._call and function.get("name"):
            name, self._call, self._has_tools = function["name"], call.get("index"), True
            events = self._start_block({"type": "tool_use", "id": call.get("id") or "", "name": name, "input": {}})
        arguments = function.get("arguments")
        if arguments and self._block == "tool_use":
            events += self._delta({"type": "input_json_delta", "partial_json": arguments})
        return events

    def _start_block(self, block: dict[str, Any]) -> bytes:
        stop = self._stop_block()
        self._block, self._index = block["type"], self._index + 1
        fields = {"type": "content_block_start", "index": self._index, "content_block": block}
        return stop + render("content_block_start", fields)

    def _stop_block(self) -> bytes:
        if not self._block:
            return b""
        self._block = ""
        return render("content_block_stop", {"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return render("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})

    def _end(self) -> bytes:
        self._ended = True
        counts = self.tokens()
        reason = "stop_sequence" if self._stop_sequence else STOP_REASONS.get(self._finish, "end_turn")
        stop = {"stop_reason": reason, "stop_sequence": self._stop_sequence}
        usage = {"input_tokens": self._before.tokens.input, "output_tokens": counts.output}
        end = render("message_delta", {"type": "message_delta", "delta": stop, "usage": usage})
        return self._stop_block() + end + render("message_stop", {"type": "message_stop"})

    def _render_error(self, error: ProxyError) -> bytes:
        return error_events(None, Dialect.ANTHROPIC, error)


class ContinuedChat(OpenAIStream):
    """The rest of a chat in OpenAI's dialect."""

    def __init__(self, route: Route, model_name: str, partial: PartialAnswer, hide_usage: bool = False) -> None:
        super().__init__(route, model_name, hide_usage)
        self._before, self._seam = partial, Seam(partial.repeated)

    @property
    def has_content(self) -> bool:
        """Whether the client has a part of the answer: it has the partial one."""
        return True

    def tokens(self) -> TokenCounts:
        """Return the counts of all servers together."""
        if self._usage_event:
            return super().tokens()
        return added_tokens(self._before.tokens, TokenCounts(), self._event_count)

    def partial(self) -> PartialAnswer | None:
        """Return what the client has now, None where it cannot be continued once more."""
        found = super().partial()
        if found is None:
            return None
        tokens = replace(self._before.tokens, output=self._before.tokens.output + found.tokens.output)
        return replace(self._before, text=self._before.text + found.text, tokens=tokens)

    def _filter_event(self, raw: bytes) -> bytes:
        if not raw.startswith(b"data: {") or raw.startswith(ERROR_PREFIXES):
            return super()._filter_event(raw)
        chunk = parse(raw).json()
        chunk.update(self._before.head or {})
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("reasoning") or delta.get("reasoning_content"):
                return self._end_with(stream_interrupted(self._route.alias))
            delta.pop("role", None)
            if isinstance(delta.get("content"), str):
                delta["content"] = self._seam.feed(delta["content"])
                if not delta["content"] and not choice.get("finish_reason") and not delta.get("tool_calls"):
                    return b""
        # as orjson writes it, without a space: the filter looks for `"usage":{`
        return super()._filter_event(b"data: " + orjson.dumps(self._with_usage(chunk)) + b"\n\n")

    def _with_usage(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk with the counts of the whole answer, where it has any."""
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            return chunk
        had = self._before.tokens.output
        prompt = max(0, (usage.get("prompt_tokens") or 0) - had)
        made = (usage.get("completion_tokens") or 0) + had
        counts = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        return {**chunk, "usage": {**usage, **counts}}


def added_tokens(before: TokenCounts, found: TokenCounts, events: int) -> TokenCounts:
    """Return the counts of an answer that several servers worked on. events: counted where a stream has no usage."""
    made = found.output or events
    return TokenCounts(before.input or found.input, before.cached + found.cached, before.output + made)
