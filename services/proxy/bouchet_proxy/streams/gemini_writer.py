"""Writes the answer to a client of Gemini's dialect: its chat is translated piece by piece on the way."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from bouchet_proxy.asgi import Header
from bouchet_proxy.backends.litellm_gemini import GeminiAnswer
from bouchet_proxy.dialects.endpoints import Dialect

from .response_writer import PINGS, ResponseWriter
from .sse import EventSplitter, parse

_DONE = b"[DONE]"
# status of an answer; anything above is an error, which is in the client's dialect already
_FIRST_ERROR = 300


class GeminiWriter(ResponseWriter):
    """A ResponseWriter for chats that were requested in Gemini's dialect. answer: set once the request is known."""

    answer: GeminiAnswer | None = None
    _splitter: EventSplitter | None = None

    async def write(self, data: bytes) -> None:
        """Send what the client gets for a piece of a streamed chat."""
        if translated := self._translate(data):
            await self._write_body(translated)

    async def end(self, data: bytes) -> None:
        """Send what the client gets for the last piece of a streamed chat, or for an error that ends it."""
        await super().end(self._translate(data))

    async def send(self, status: int, body: bytes, headers: Iterable[Header]) -> None:
        """Send a whole answer."""
        if self.answer is not None and status < _FIRST_ERROR:
            body = self.answer.translate_whole(body)
        await super().send(status, body, headers)

    async def send_json(self, status: int, value: object, headers: Iterable[Header] = ()) -> None:
        """Send a whole answer that is not encoded yet."""
        if self.answer is not None and status < _FIRST_ERROR:
            value = orjson.loads(self.answer.translate_whole(orjson.dumps(value)))
        await super().send_json(status, value, headers)

    def _translate(self, data: bytes) -> bytes:
        if self.answer is None:
            return data
        self._splitter = self._splitter or EventSplitter()
        answer = self.answer
        return b"".join([_translate_event(answer, raw) for raw in self._splitter.feed(data)])


def _translate_event(answer: GeminiAnswer, raw: bytes) -> bytes:
    """Return the event of Gemini's dialect for one of a chat; what is no event of a chat is an error, and passes.

    A comment becomes what this dialect has for a ping: Google's Python SDK takes a comment for a broken answer.
    """
    if raw.startswith(b":"):
        return PINGS[Dialect.GOOGLE]
    if not raw.startswith(b"data:"):
        return raw
    data = parse(raw).data
    return answer.finish() if data == _DONE else answer.translate_chunk(data)
