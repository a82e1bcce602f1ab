"""One request on its way to a model, and the answer on its way back: what both carriers share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from .asgi import Header
from .dialects.endpoints import Dialect, Endpoint
from .dialects.token_limits import Body
from .dialects.usage_counts import Tokens
from .errors import UNREACHABLE, Failure, cut_short, from_upstream, overflow, status_in
from .routing.table import Route
from .streams.client import Client
from .streams.filters import StreamFilter, stream_filter, whole_answer
from .streams.responses import ResponsesStream
from .usage.request import Tally

# an error body above this is no sentence
MAX_ERROR_BYTES = 64 << 10


@dataclass
class Exchange:
    """A checked, prepared request. shown: the model's name as the client wrote it; key: opens this job's vLLM.

    hide_usage: a stream's counts are asked of the server, but not passed on: the client did not want them.
    opened: the prompt ends inside a think block, so the answer begins in it.
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
    opened: bool = False

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True


# The exchange that the running task carries. LiteLLM's hook reads it; a client cannot write it.
current: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


Count = Callable[[Exchange], Awaitable[int | None]]


class Reply:
    """The answer of one exchange: begin with a status, feed the pieces, finish. The client gets its own dialect.

    may_wait: where the model cannot be reached the client is told nothing yet; `unreachable` says why.
    """

    def __init__(self, exchange: Exchange, client: Client, count: Count, may_wait: bool = False) -> None:
        self._exchange, self._client, self._count = exchange, client, count
        self._may_wait = may_wait
        self._status = 0
        self._kept: list[bytes] = []
        self._filter: StreamFilter | None = None
        self.client = client
        self.unreachable: Failure | None = None

    @property
    def begun(self) -> bool:
        """Whether the client has been sent anything of the answer."""
        return self._filter is not None

    async def begin(self, status: int, content_type: str) -> None:
        """The server's status. A good stream goes on at once, all else waits until it is whole."""
        self._status = status
        if status < 400 and content_type.startswith("text/event-stream"):
            exchange = self._exchange
            self._filter = filter_of(exchange)
            exchange.tally.stream_begins(status, self._filter.tokens)
            await self._client.open_stream(identity(exchange))

    async def feed(self, piece: bytes) -> bool:
        """Bytes of the server's body. Whether the client got some for them."""
        if self._filter is None:
            self._kept.append(piece)
            return False
        shown = self._filter.feed(piece)
        if shown:
            await self._client.write(shown)
            if self._exchange.tally.first is None:
                self._exchange.tally.first = time.monotonic()
        return bool(shown)

    async def ping(self) -> None:
        """A sign of life in a stream that is silent."""
        if self._filter is not None:
            await self._client.ping()

    async def finish(self) -> None:
        """The server's body is whole."""
        if self._filter is not None:
            await self._end_stream(self._filter)
        elif self._status >= 400 or self._exchange.failure is not None:
            await self.fail(self._exchange.failure or await self._upstreams())
        else:
            exchange = self._exchange
            whole, route = b"".join(self._kept), exchange.route
            body, tokens = whole_answer(exchange.endpoint, whole, route, exchange.shown, exchange.opened)
            headers = [(b"content-type", b"application/json"), *identity(exchange)]
            await self._client.answer(self._status, body, headers)
            exchange.tally.answered(self._status, tokens)

    async def _upstreams(self) -> Failure:
        """What the server said, an overflow with the prompt's exact size."""
        exchange = self._exchange
        body = b"".join(self._kept)[:MAX_ERROR_BYTES]
        failure = from_upstream(self._status, body, exchange.route.alias, exchange.endpoint)
        if failure.overflow is None:
            return failure
        counted = await self._count(exchange)
        return overflow(counted or failure.overflow[0], failure.overflow[1])

    async def fail(self, failure: Failure) -> None:
        """Ends with an error: as the answer itself, or as the last event of a stream that has begun."""
        exchange = self._exchange
        if self._filter is not None:
            await self._end_stream(self._filter)
        elif failure.code == UNREACHABLE and self._may_wait:
            self.unreachable, exchange.failure = failure, None
        elif failure.overflow is not None and exchange.endpoint is Endpoint.COUNT_TOKENS:
            # to count is no sin, however long the prompt
            await self._client.answer_json(200, {"input_tokens": failure.overflow[0]}, identity(exchange))
            exchange.tally.answered(200, Tokens())
        else:
            await self._client.fail(failure, identity(exchange))
            exchange.tally.failed(failure, status_in(exchange.dialect, failure))

    async def break_off(self) -> None:
        """The server went away in the middle."""
        await self.fail(cut_short(self._exchange.route.alias))

    async def _end_stream(self, events: StreamFilter) -> None:
        await self._client.end(events.finish())
        if events.failure is None:
            self._exchange.tally.finished = True
        else:
            self._exchange.tally.failed(events.failure, self._status)


def filter_of(exchange: Exchange) -> StreamFilter:
    """The filter for what this exchange streams."""
    if exchange.endpoint is Endpoint.RESPONSES:
        return ResponsesStream(exchange.route, exchange.shown)
    return stream_filter(exchange.dialect, exchange.route, exchange.shown, exchange.hide_usage, exchange.opened)


def identity(exchange: Exchange) -> list[Header]:
    """Headers that let a user's report be matched with a deployment."""
    return [
        (b"request-id", f"req_{secrets.token_hex(12)}".encode()),
        (b"x-bouchet-model", exchange.route.alias.encode()),
        *exchange.tally.limits(),
    ]
