"""The filters for streams of OpenAI's endpoints: chat, completions and responses. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.dialects.thinking import ThinkStripper
from bouchet_proxy.dialects.tokens import TokenCounts, parse_usage
from bouchet_proxy.errors import ProxyError
from bouchet_proxy.routing.table import Route
from bouchet_proxy.upstream_errors import error_from_upstream

from .filters import StreamFilter, error_events, may_think
from .sse import parse, render

_ERROR_PREFIXES = (b'data: {"error"', b'data: {"type":"error"')
_WITH_RESPONSE = (b"event: response.created", b"event: response.in_progress")
_RESPONSE_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")


class OpenAIStream(StreamFilter):
    """The filter for chat and completions: one JSON object per event, `[DONE]` at the end.

    hide_usage: the client did not ask for the token counts. starts_inside: the prompt ended inside a think block.
    """

    def __init__(self, route: Route, model_name: str, hide_usage: bool = False, starts_inside: bool = False) -> None:
        super().__init__(route, model_name)
        self._may_think, self._hide_usage, self._starts_inside = may_think(route), hide_usage, starts_inside
        self._strippers: dict[int, ThinkStripper] = {}
        self._usage_event = b""

    def tokens(self) -> TokenCounts:
        """Return the counts of the usage event; in a stream that was interrupted, every event counts as a token."""
        if not self._usage_event:
            return TokenCounts(output=self._event_count)
        return parse_usage(parse(self._usage_event).json().get("usage"))

    def _render_error(self, error: ProxyError) -> bytes:
        return error_events(None, Dialect.OPENAI, error)

    def _filter_event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        if raw.startswith(b"data: [DONE]"):
            self._ended = True
            return raw
        if raw.startswith(_ERROR_PREFIXES):
            return self._end_with(error_from_upstream(500, parse(raw).data, self._route.alias))
        if b'"usage":{' in raw:
            self._usage_event = raw
            if self._hide_usage:
                raw = _drop_usage(raw)
        raw = self._rename_model(raw)
        if self._may_think and not self._all_passing():
            return self._filter_chunk(raw)
        return raw

    def _all_passing(self) -> bool:
        return bool(self._strippers) and all(stripper.passing for stripper in self._strippers.values())

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


def _drop_usage(raw: bytes) -> bytes:
    """Return a chunk without its usage; b'' where nothing else is in it."""
    data = parse(raw).json()
    data.pop("usage", None)
    filled = [choice for choice in data.get("choices") or () if choice.get("finish_reason") or _has_content(choice)]
    return render("", data) if filled else b""


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(value for name, value in delta.items() if name != "role"))


class ResponsesStream(StreamFilter):
    """The filter for `/v1/responses`, whose events have names and end without `[DONE]`.

    Think blocks are left to vLLM's reasoning parser: only vLLM knows where an item begins.
    """

    def __init__(self, route: Route, model_name: str) -> None:
        super().__init__(route, model_name)
        self._model_name = model_name
        self._last_event = b""
        self._first_event = b""
        self._passed_events, self._text_deltas = 0, 0

    def tokens(self) -> TokenCounts:
        """Return the counts of the last event; in a stream that was interrupted, every delta counts as a token."""
        if not self._last_event:
            return TokenCounts(output=self._text_deltas)
        return parse_usage((parse(self._last_event).json().get("response") or {}).get("usage"))

    def _filter_event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        self._passed_events += 1
        if raw.startswith(b"event: response.output_text.delta"):
            self._text_deltas += 1
            return raw
        if raw.startswith(_RESPONSE_ENDS):
            self._ended, self._last_event = True, raw
        if raw.startswith((*_RESPONSE_ENDS, *_WITH_RESPONSE)):
            self._first_event = self._first_event or raw
            return self._rename_model(raw)
        if raw.startswith((b"event: error", *_ERROR_PREFIXES)):
            return self._end_with(error_from_upstream(500, parse(raw).data, self._route.alias))
        return raw

    def _render_error(self, error: ProxyError) -> bytes:
        """Render `response.failed` where the response has begun, else an error event."""
        if not self._first_event:
            return error_events(Endpoint.RESPONSES, Dialect.OPENAI, error)
        response = {
            **parse(self._first_event).json()["response"],
            "model": self._model_name,
            "status": "failed",
            "error": {"code": error.code or "server_error", "message": error.message},
        }
        kind = "response.failed"
        return render(kind, {"type": kind, "sequence_number": self._passed_events, "response": response})
