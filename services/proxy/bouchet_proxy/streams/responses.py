"""The filter for the streams of OpenAI's `/v1/responses`, whose events carry names and end without `[DONE]`. Pure."""

from __future__ import annotations

from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.dialects.usage_counts import Tokens, tokens_of
from bouchet_proxy.errors import Failure, from_upstream
from bouchet_proxy.routing.table import Route

from .filters import StreamFilter, failure_events
from .sse import parse, render

_WHOLE = (b"event: response.created", b"event: response.in_progress")
_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")


class ResponsesStream(StreamFilter):
    """Think blocks are vLLM's to find here: only it knows where an item begins."""

    def __init__(self, route: Route, shown: str) -> None:
        super().__init__(route, shown)
        self._shown = shown
        self._last = b""
        self._begun = b""
        self._passed, self._texts = 0, 0

    def tokens(self) -> Tokens:
        """See StreamFilter."""
        if not self._last:
            return Tokens(output=self._texts)
        return tokens_of((parse(self._last).json().get("response") or {}).get("usage"))

    def _event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        self._passed += 1
        if raw.startswith(b"event: response.output_text.delta"):
            self._texts += 1
            return raw
        if raw.startswith(_ENDS):
            self._ended, self._last = True, raw
        if raw.startswith((*_ENDS, *_WHOLE)):
            self._begun = self._begun or raw
            return self._named(raw)
        if raw.startswith((b"event: error", b'data: {"error"', b'data: {"type":"error"')):
            return self._end_with(from_upstream(500, parse(raw).data, self._route.alias))
        return raw

    def _failed(self, failure: Failure) -> bytes:
        """In the words for a response that has begun, where it has: `response.failed`."""
        if self._begun:
            error = {"code": failure.code or "server_error", "message": failure.message}
            response = {
                **parse(self._begun).json()["response"],
                "model": self._shown,
                "status": "failed",
                "error": error,
            }
            kind = "response.failed"
            return render(kind, {"type": kind, "sequence_number": self._passed, "response": response})
        return failure_events(Endpoint.RESPONSES, Dialect.OPENAI, failure)
