"""One request on its way to a model, and the answer on its way back: what both carriers share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

from .answers import StreamFilter, stream_filter, whole_answer
from .asgi import Header, Send, answer_bytes, answer_json
from .clamp import Body
from .dialects import Dialect, Endpoint
from .routing import Route
from .tally import Tally
from .wording import Failure, cut_short, error_body, from_upstream, status_in

# an error body above this is no sentence
MAX_ERROR_BYTES = 64 << 10


@dataclass
class Exchange:
    """A checked, prepared request. shown: the model's name as the client wrote it; key: opens this job's vLLM.

    hide_usage: a stream's counts are asked of the server, but not passed on: the client did not want them.
    `failure` is set by whoever knows better than the answer's status what went wrong.
    """

    endpoint: Endpoint
    dialect: Dialect
    route: Route
    shown: str
    body: Body
    key: str = field(repr=False)
    tally: Tally
    hide_usage: bool = False
    failure: Failure | None = None

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True


# The exchange that the running task carries. LiteLLM's hook reads it; a client cannot write it.
current: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


class Reply:
    """The answer of one exchange: begin with a status, feed the pieces, finish. The client gets its own dialect."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send
        self._status, self._streaming = 0, False
        self._kept: list[bytes] = []
        self._filter: StreamFilter | None = None

    @property
    def begun(self) -> bool:
        """Whether the client has been sent a status already."""
        return self._streaming

    async def begin(self, status: int, content_type: str) -> None:
        """The server's status. A good stream goes on at once, all else waits until it is whole."""
        self._status = status
        if status < 400 and content_type.startswith("text/event-stream"):
            self._streaming = True
            exchange = self._exchange
            self._filter = stream_filter(exchange.dialect, exchange.route, exchange.shown, exchange.hide_usage)
            exchange.tally.stream_begins(status, self._filter.tokens)
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._send(
                {"type": "http.response.start", "status": status, "headers": [*headers, *identity(self._exchange)]}
            )

    async def feed(self, piece: bytes) -> None:
        """Bytes of the server's body."""
        if self._filter is None:
            self._kept.append(piece)
        elif shown := self._filter.feed(piece):
            await self._send({"type": "http.response.body", "body": shown, "more_body": True})
            if self._exchange.tally.first is None:
                self._exchange.tally.first = time.monotonic()

    async def ping(self) -> None:
        """A sign of life in a stream that is silent."""
        if self._streaming:
            anthropic = self._exchange.dialect is Dialect.ANTHROPIC
            sign = b'event: ping\ndata: {"type": "ping"}\n\n' if anthropic else b": ping\n\n"
            await self._send({"type": "http.response.body", "body": sign, "more_body": True})

    async def finish(self) -> None:
        """The server's body is whole."""
        if self._filter is not None:
            await self._end_stream(self._filter)
        elif self._status >= 400 or self._exchange.failure is not None:
            body = b"".join(self._kept)[:MAX_ERROR_BYTES]
            upstream = from_upstream(self._status, body, self._exchange.route.alias)
            await self.fail(self._exchange.failure or upstream)
        else:
            exchange = self._exchange
            body, tokens = whole_answer(exchange.endpoint, b"".join(self._kept), exchange.route, exchange.shown)
            headers = [(b"content-type", b"application/json"), *identity(exchange)]
            await answer_bytes(self._send, self._status, body, headers)
            exchange.tally.answered(self._status, tokens)

    async def fail(self, failure: Failure) -> None:
        """Ends with an error: as the answer itself, or as the last event of a stream that has begun."""
        if self._filter is not None:
            await self._end_stream(self._filter)
        else:
            exchange = self._exchange
            await send_failure(self._send, exchange.dialect, failure)
            exchange.tally.failed(failure, status_in(exchange.dialect, failure))

    async def break_off(self) -> None:
        """The server went away in the middle."""
        await self.fail(cut_short(self._exchange.route.alias))

    async def _end_stream(self, events: StreamFilter) -> None:
        await self._send({"type": "http.response.body", "body": events.finish(), "more_body": False})
        if events.failure is None:
            self._exchange.tally.finished = True
        else:
            self._exchange.tally.failed(events.failure, self._status)


def identity(exchange: Exchange) -> list[Header]:
    """Headers that let a user's report be matched with a deployment."""
    return [
        (b"request-id", f"req_{secrets.token_hex(12)}".encode()),
        (b"x-bouchet-model", exchange.route.alias.encode()),
        *exchange.tally.limits(),
    ]


async def send_failure(send: Send, dialect: Dialect, failure: Failure, more: Iterable[Header] = ()) -> None:
    """An error as a whole answer."""
    headers = [(b"retry-after", str(failure.retry_after_s).encode())] if failure.retry_after_s else []
    await answer_json(send, status_in(dialect, failure), error_body(dialect, failure), [*headers, *more])
