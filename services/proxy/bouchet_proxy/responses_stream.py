"""The filter for the streams of OpenAI's `/v1/responses`, whose events carry names and end without `[DONE]`. Pure."""

from __future__ import annotations

import re

import orjson

from .answers import failure_events
from .dialects import Dialect, Endpoint
from .routing import Route
from .sse import Cutter, parse, render
from .tokens import Tokens, tokens_of
from .wording import Failure, cut_short, from_upstream

_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')
_WHOLE = (b"event: response.created", b"event: response.in_progress")
_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")


class ResponsesStream:
    """See StreamFilter in answers.py. Think blocks are vLLM's to find here: only it knows where an item begins."""

    def __init__(self, route: Route, shown: str) -> None:
        self._route, self._shown = route, shown
        self._model = b'"model":' + orjson.dumps(shown)
        self._cutter = Cutter()
        self._last = b""
        self._begun = b""
        self._events, self._seen, self._ended = 0, 0, False
        self.failure: Failure | None = None

    def feed(self, piece: bytes) -> bytes:
        """See StreamFilter."""
        return b"".join([self._event(raw) for raw in self._cutter.feed(piece)])

    def finish(self) -> bytes:
        """See StreamFilter. `response.failed`, unless the stream had its proper end."""
        return b"" if self._ended else self._end_with(cut_short(self._route.alias))

    def tokens(self) -> Tokens:
        """See StreamFilter."""
        if not self._last:
            return Tokens(output=self._seen)
        return tokens_of((parse(self._last).json().get("response") or {}).get("usage"))

    def _event(self, raw: bytes) -> bytes:
        if self._ended:
            return b""
        self._events += 1
        if raw.startswith(b"event: response.output_text.delta"):
            self._seen += 1
            return raw
        if raw.startswith(_ENDS):
            self._ended, self._last = True, raw
        if raw.startswith((*_ENDS, *_WHOLE)):
            self._begun = self._begun or raw
            return _MODEL.sub(lambda _: self._model, raw, count=1)
        if raw.startswith((b"event: error", b'data: {"error"', b'data: {"type":"error"')):
            return self._end_with(from_upstream(500, parse(raw).data, self._route.alias))
        return raw

    def _end_with(self, failure: Failure) -> bytes:
        """In the words for a response that has begun, where it has."""
        self._ended, self.failure = True, failure
        if self._begun:
            error = {"code": failure.code or "server_error", "message": failure.message}
            response = {
                **parse(self._begun).json()["response"],
                "model": self._shown,
                "status": "failed",
                "error": error,
            }
            kind = "response.failed"
            return render(kind, {"type": kind, "sequence_number": self._events, "response": response})
        return failure_events(Endpoint.RESPONSES, Dialect.OPENAI, failure)
