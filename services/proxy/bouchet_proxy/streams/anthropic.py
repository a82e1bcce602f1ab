"""The filter for streams of Anthropic's `/v1/messages`. Pure."""

from __future__ import annotations

from dataclasses import replace

from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.dialects.thinking import ThinkStripper
from bouchet_proxy.dialects.tokens import TokenCounts, parse_usage
from bouchet_proxy.errors import ProxyError
from bouchet_proxy.routing.table import Route
from bouchet_proxy.upstream_errors import error_from_upstream

from .filters import StreamFilter, error_events, may_think
from .sse import parse, render


class AnthropicStream(StreamFilter):
    """Removes think blocks from text blocks. starts_inside: the prompt ended inside a think block."""

    def __init__(self, route: Route, model_name: str, starts_inside: bool = False) -> None:
        super().__init__(route, model_name)
        self._may_think, self._starts_inside = may_think(route), starts_inside
        self._stripper: ThinkStripper | None = None
        self._index = 0
        self._usage_events: list[bytes] = []

    def tokens(self) -> TokenCounts:
        """Return the counts of the last usage; in a stream that was interrupted, every event counts as a token."""
        usages = [parse(raw).json() for raw in self._usage_events]
        counts = [parse_usage(data.get("usage") or (data.get("message") or {}).get("usage")) for data in usages]
        if not counts:
            return TokenCounts()
        return counts[-1] if len(counts) > 1 else replace(counts[0], output=max(0, self._event_count - 2))

    def _render_error(self, error: ProxyError) -> bytes:
        return error_events(None, Dialect.ANTHROPIC, error)

    def _filter_event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"event: content_block_delta"):
            return raw if self._stripper is None else self._filter_delta(raw)
        if raw.startswith(b"event: content_block_st"):
            return self._filter_block_border(raw)
        if raw.startswith(b"event: message_start"):
            self._usage_events.append(raw)
            return self._rename_model(raw)
        if raw.startswith(b"event: message_stop"):
            self._ended = True
            return raw
        if raw.startswith(b"event: message_delta"):
            self._usage_events.append(raw)
            return raw
        if raw.startswith(b"event: ping"):
            return raw
        return self._filter_other(raw)

    def _filter_block_border(self, raw: bytes) -> bytes:
        if raw.startswith(b"event: content_block_start"):
            if self._may_think and b'"type":"text"' in raw.replace(b" ", b""):
                self._stripper, self._starts_inside = ThinkStripper(self._starts_inside), False
            return raw
        rest = self._stripper.finish() if self._stripper is not None else ""
        self._stripper = None
        return self._text_delta(rest) + raw if rest else raw

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
        if raw.startswith(b":"):
            return raw
        data = parse(raw).data
        if b"error" not in data[:200]:
            return b""
        return self._end_with(error_from_upstream(500, data, self._route.alias))
