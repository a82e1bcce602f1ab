"""The filter for `/v1/responses`, whose events have names and end without `[DONE]`."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from bouchet_proxy.dialects.responses import restore_names
from bouchet_proxy.dialects.tokens import TokenCounts, complete_details, parse_usage
from bouchet_proxy.errors import ProxyError, stream_interrupted
from bouchet_proxy.routing.table import Route
from bouchet_proxy.upstream_errors import error_from_upstream

from .error_events import failed_response
from .filters import ERROR_PREFIXES, StreamFilter
from .sse import EVENT_STARTS, parse, render

_WITH_RESPONSE = (b"event: response.created", b"event: response.in_progress")
# by the guard, before the end of a response that vLLM aborted and calls complete (remote/job/cut_responses.py)
_ABORTED = b": bouchet-aborted"
_RESPONSE_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")


_ARGUMENTS_END = b"event: response.function_call_arguments.done"
_WITH_CALLS = (b"event: response.output_item.", _ARGUMENTS_END, *_RESPONSE_ENDS)


def _with_names(raw: bytes, names: Mapping[str, tuple[str, str]]) -> bytes:
    """Return an event with the client's names of the functions that are called in it."""
    event = parse(raw)
    try:
        data = event.json()
        restore_names(data.get("item"), names)
        restore_names((data.get("response") or {}).get("output"), names)
        if (called := data.get("name")) in names:
            data["name"] = names[called][1]
        return render(event.name, data)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, AttributeError, TypeError):
        return raw


def _with_details(raw: bytes) -> bytes:
    """Return the last event of a response with all counts that clients' types require."""
    event = parse(raw)
    try:
        data = event.json()
        complete_details((data.get("response") or {}).get("usage"))
        return render(event.name, data)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return raw


class ResponsesStream(StreamFilter):
    """Renames the model, and adds a missing end.

    Think blocks are left to vLLM's reasoning parser: only vLLM knows where an item begins. names: of functions that
    are in a namespace, as the client knows them.
    """

    def __init__(self, route: Route, model_name: str, names: Mapping[str, tuple[str, str]] | None = None) -> None:
        super().__init__(route, model_name)
        self._names = names or {}
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
        if raw.startswith(_ABORTED):
            return self._end_with(stream_interrupted(self._route.alias))
        self._passed_events += raw.startswith(EVENT_STARTS)
        if raw.startswith(b"event: response.output_text.delta"):
            self._text_deltas += 1
            return raw
        if self._names and raw.startswith(_WITH_CALLS):
            raw = _with_names(raw, self._names)
        if raw.startswith(_RESPONSE_ENDS):
            self._ended, self._last_event = True, raw
            raw = _with_details(raw)
        if raw.startswith((*_RESPONSE_ENDS, *_WITH_RESPONSE)):
            self._first_event = self._first_event or raw
            return self._rename_model(raw)
        if raw.startswith(ERROR_PREFIXES):
            return self._end_with(error_from_upstream(500, parse(raw).data, self._route.alias))
        return raw

    def _render_error(self, error: ProxyError) -> bytes:
        """Render `response.failed`, behind a beginning if the client has none."""
        if not self._first_event:
            return failed_response(error)
        response = {**parse(self._first_event).json()["response"], "model": self._model_name}
        return failed_response(error, response, self._passed_events)
