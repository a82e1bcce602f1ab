"""What changes in a response on its way to the client: the model's name, think blocks, and a missing end. Pure.

The same filters apply to both backends. A stream costs next to nothing per event: it is split into events, and only
those that must change are decoded.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

import orjson

from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.dialects.thinking import strip_thinking
from bouchet_proxy.dialects.tokens import TokenCounts, parse_usage
from bouchet_proxy.errors import ProxyError, error_body, stream_interrupted
from bouchet_proxy.routing.table import Route

from .sse import EventSplitter, render

DONE = b"data: [DONE]\n\n"
# quotes inside JSON strings are escaped, so this never matches inside a text
_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')


class StreamFilter(ABC):
    """A stream of events on its way to the client. error: what the client got instead of a proper end.

    model_name: the model's name as the client wrote it, which replaces vLLM's.
    """

    def __init__(self, route: Route, model_name: str) -> None:
        self._route = route
        self._model = b'"model":' + orjson.dumps(model_name)
        self._splitter = EventSplitter()
        self._ended = False
        self._event_count = 0
        self.error: ProxyError | None = None

    def feed(self, piece: bytes) -> bytes:
        """Return what the client gets for these bytes; b'' while an event is incomplete."""
        events = self._splitter.feed(piece)
        self._event_count += len(events)
        return b"".join([self._filter_event(raw) for raw in events])

    def finish(self) -> bytes:
        """Return what the client still gets when the server has closed: an error, unless the stream had its end."""
        return b"" if self._ended else self._end_with(stream_interrupted(self._route.alias))

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
        return self._render_error(error)

    def _rename_model(self, raw: bytes) -> bytes:
        return _MODEL.sub(lambda _: self._model, raw, count=1)


def error_events(endpoint: Endpoint | None, dialect: Dialect, error: ProxyError) -> bytes:
    """Render the end of a stream that failed, as the dialect's clients expect it."""
    if dialect is Dialect.ANTHROPIC:
        return render("error", error_body(dialect, error))
    if endpoint is Endpoint.RESPONSES:
        fields = {"code": error.code or "server_error", "message": error.message, "param": None}
        return render("error", {"type": "error", "sequence_number": 0, **fields})
    return render("", error_body(dialect, error)) + DONE


def may_think(route: Route) -> bool:
    """Return whether the model's answers may contain think blocks."""
    return route.traits.thinking != "none"


def filter_response(
    endpoint: Endpoint, body: bytes, route: Route, model_name: str, starts_inside: bool = False
) -> tuple[bytes, TokenCounts]:
    """Return a whole response as the client gets it, and its token counts; anything but a JSON object stays as it is.

    starts_inside: the prompt ended inside a think block.
    """
    try:
        response = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body, TokenCounts()
    if not isinstance(response, dict):
        return body, TokenCounts()
    if "model" in response:
        response["model"] = model_name
    if may_think(route):
        if endpoint is Endpoint.MESSAGES:
            _strip_blocks(response, starts_inside)
        elif endpoint is Endpoint.CHAT:
            _strip_choices(response, starts_inside)
    return orjson.dumps(response), parse_usage(response.get("usage"))


def _strip_blocks(response: dict[str, Any], starts_inside: bool) -> None:
    blocks = response.get("content")
    if not isinstance(blocks, list):
        return
    for block in blocks:
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
            block["text"] = strip_thinking(block["text"], starts_inside)
            starts_inside = False


def _strip_choices(response: dict[str, Any], starts_inside: bool) -> None:
    for choice in response.get("choices") or ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            message["content"] = strip_thinking(message["content"], starts_inside)
