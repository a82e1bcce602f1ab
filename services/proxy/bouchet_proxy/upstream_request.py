"""One request to a model, its response on the way back, and the interface of the backends that send it."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from .asgi import Header, Scope
from .dialects.capabilities import name_capability
from .dialects.continuation import PartialAnswer
from .dialects.endpoints import Dialect, Endpoint
from .dialects.openai import wants_usage
from .dialects.responses import flat_names, restore_names
from .dialects.thinking import strip_thinking
from .dialects.tokens import Body, TokenCounts, complete_details, parse_usage
from .errors import UNREACHABLE, ProxyError, context_overflow, status_for, stream_interrupted, unreachable
from .routing.table import Route
from .streams.continued import ContinuedChat, ContinuedMessage
from .streams.empty_answer import as_events, empty_answer
from .streams.error_events import SERVER_ERROR
from .streams.filters import AnthropicStream, CompletionStream, OpenAIStream, StreamFilter, may_think
from .streams.response_writer import ResponseWriter
from .streams.responses import ResponsesStream
from .upstream_errors import error_from_upstream
from .usage.request import RequestUsage

# status of a request that cannot be served as it is
REJECTED = 400
# an error body above this has no readable message
MAX_ERROR_BYTES = 64 << 10


@dataclass(eq=False)
class UpstreamRequest:
    """One attempt at one model: the prepared request, and its response, which is written to the client as it comes.

    A backend calls start_response, forward for each piece of the body, and finish; or fail. The client gets its own
    dialect.

    model_name: as the client wrote it. key: the API key of this job's vLLM. count_tokens: counts the prompt.
    hide_usage: the token counts in a stream are not passed on, as the client did not ask for them.
    note: what was left out of the request, for the client.
    client_body: the request as the client wrote it. is_empty: the client gets none of the answer's tokens.
    starts_inside: the prompt ends inside a think block, so the answer begins in it.
    may_retry: if the model cannot be reached, the client gets nothing yet, and `unreachable` has the error.
    may_restart: if its server ends before there is content, the request may be sent to another one; then it `restarts`.
    begun: the client has been sent the beginning of an answer, without content.
    before: what the client has of the answer, which this server goes on with. may_continue: if its server ends within
    plain text, another one may go on behind it; then `partial` has what the client has.
    is_current: whether the server that the route leads to may still run.
    error: set by a backend that knows better than the response's status what went wrong.
    """

    endpoint: Endpoint
    route: Route
    model_name: str
    body: Body
    key: str = field(repr=False)
    usage: RequestUsage
    writer: ResponseWriter
    count_tokens: Callable[[UpstreamRequest], Awaitable[int | None]] = field(repr=False)
    hide_usage: bool = False
    note: str = ""
    client_body: Body = field(default_factory=dict, repr=False)
    is_empty: bool = False
    starts_inside: bool = False
    may_retry: bool = False
    may_restart: bool = False
    begun: bool = False
    before: PartialAnswer | None = field(default=None, repr=False)
    may_continue: bool = False
    is_current: Callable[[], bool] = field(default=lambda: True, repr=False)
    error: ProxyError | None = None
    unreachable: ProxyError | None = field(default=None, init=False)
    restarts: bool = field(default=False, init=False)
    partial: PartialAnswer | None = field(default=None, init=False, repr=False)
    _held: bool = field(default=False, init=False)
    _status: int = field(default=0, init=False)
    _pieces: list[bytes] = field(default_factory=list, init=False, repr=False)
    _filter: StreamFilter | None = field(default=None, init=False, repr=False)

    @property
    def path(self) -> Endpoint:
        """The server's endpoint: chats are the only ones that it continues."""
        return self.endpoint if self.before is None else Endpoint.CHAT

    @property
    def wants_stream(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    @property
    def streaming(self) -> bool:
        """Whether a streamed response has begun."""
        return self._filter is not None

    @property
    def has_content(self) -> bool:
        """Whether the client has been sent a part of the answer itself."""
        return self._filter is not None and self._filter.has_content

    @property
    def has_begun(self) -> bool:
        """Whether the client has been sent the beginning of an answer."""
        return self.begun or (self._filter is not None and self._filter.has_begun)

    async def start_response(self, status: int, content_type: str) -> None:
        """Take the server's status. A successful stream is passed on at once, everything else when it is complete."""
        self._status = status
        if status < 400 and content_type.startswith("text/event-stream"):
            self._filter = _stream_filter(self)
            self._filter.withholds = self.may_continue
            self.usage.start_stream(status, self._filter.tokens)
            self.usage.continued += self.before is not None
            await self.writer.start_events(self._headers())

    async def forward(self, piece: bytes) -> bool:
        """Take bytes of the server's body; return whether the client was sent some for them."""
        if self._filter is None:
            self._pieces.append(piece)
            return False
        data = self._filter.feed(piece)
        if data:
            await self.writer.write(data)
            if self.usage.first_byte_at is None:
                self.usage.first_byte_at = time.monotonic()
        return bool(data)

    async def ping(self) -> None:
        """Send the client a keep-alive ping in a stream that is silent, or that waits for the link before its head."""
        if self._held and self.wants_stream:
            await self.writer.start_events(self._headers())
        if self._filter is not None or (self._held and self.wants_stream):
            await self.writer.ping()
        if self._held and self._filter is not None and (event := self._filter.keep_alive()):
            await self.writer.write(event)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Count the request as one that waits for a lost connection."""
        self._held = True
        self.usage.active.cut += 1
        try:
            yield
        finally:
            self.usage.active.cut -= 1
            self._held = False

    async def finish(self) -> None:
        """Complete the response: the server's body has ended."""
        if self._filter is not None:
            await self._end_stream(self._filter)
        elif self._status >= 400 or self.error is not None:
            await self.fail(self.error or await self._upstream_error())
        elif self.is_empty:
            await self._send_empty()
        else:
            data, route = b"".join(self._pieces), self.route
            names = flat_names(self.client_body) if self.endpoint is Endpoint.RESPONSES else {}
            body, tokens = filter_response(self.endpoint, data, route, self.model_name, self.starts_inside, names)
            headers = [(b"content-type", b"application/json"), *self._headers()]
            await self.writer.send(self._status, body, headers)
            self.usage.finish(self._status, tokens)

    async def fail(self, error: ProxyError) -> None:
        """End with an error: as the whole response, or as the last event of a stream that has begun."""
        if self._filter is not None:
            await self._end_stream(self._filter)
        elif self.may_retry and (error.code == UNREACHABLE or self._is_failing(error)):
            self.unreachable, self.error, self.partial = unreachable(self.route.alias), None, self.before
        elif error.overflow is not None and self.endpoint is Endpoint.COUNT_TOKENS:
            # count_tokens must succeed beyond the context window
            await self.writer.send_json(200, {"input_tokens": error.overflow[0]}, self._headers())
            self.usage.finish(200, TokenCounts())
        else:
            await self.writer.send_error(error, self._headers())
            self.usage.fail(error, status_for(self.writer.dialect, error))

    async def interrupt(self) -> None:
        """End the response: the connection was lost in the middle of it."""
        await self.fail(stream_interrupted(self.route.alias))

    async def lose(self) -> None:
        """End an answer whose server has ended; another one may answer the request, or go on with plain text."""
        if self.may_restart and self.may_retry and not self.has_content and self.before is None:
            self.unreachable, self.restarts = unreachable(self.route.alias), True
        elif not self._leave(self._filter):
            await (self.interrupt() if self.streaming else self.fail(unreachable(self.route.alias)))

    async def _upstream_error(self) -> ProxyError:
        """Return the error in the server's response; an overflow has the exact size of the prompt."""
        body = b"".join(self._pieces)[:MAX_ERROR_BYTES]
        route = self.route
        error = error_from_upstream(self._status, body, route.alias, self.endpoint, attached=route.attached)
        if error.overflow is None:
            return self._name_capability(error)
        counted = await self.count_tokens(self)
        return context_overflow(counted or error.overflow[0], error.overflow[1])

    async def _send_empty(self) -> None:
        """Send the answer without its tokens, as a stream to a client that asked for one."""
        body, _ = filter_response(self.endpoint, b"".join(self._pieces), self.route, self.model_name)
        response = empty_answer(self.endpoint, orjson.loads(body))
        if self.client_body.get("stream") is True:
            await self.writer.start_events(self._headers())
            await self.writer.end(as_events(self.endpoint, response, wants_usage(self.client_body)))
        else:
            await self.writer.send_json(200, response, self._headers())
        self.usage.finish(200, parse_usage(response.get("usage")))

    def _name_capability(self, error: ProxyError) -> ProxyError:
        """Return the error with the class of the rejected capability, by which Claude Code helps itself."""
        rejected = error.status == REJECTED and self.writer.dialect is Dialect.ANTHROPIC
        message = name_capability(error.message, self.body) if rejected else None
        return error if message is None else replace(error, message=message, code="capability_rejected")

    def _is_failing(self, error: ProxyError) -> bool:
        """Return whether a server that was to go on with an answer fails, as one does that is ending."""
        return self.before is not None and error.status >= SERVER_ERROR

    def _leave(self, stream: StreamFilter | None) -> bool:
        """Leave what the client has to another server, where one can go on with it; return whether it can."""
        partial = stream.partial() if stream is not None else self.before
        if not (self.may_continue and self.may_retry) or partial is None:
            return False
        self.unreachable, self.partial = unreachable(self.route.alias), partial
        return True

    async def _end_stream(self, stream: StreamFilter) -> None:
        data = stream.finish()
        if stream.error is not None and stream.error.status >= SERVER_ERROR and self._leave(stream):
            return
        await self.writer.end(data)
        if stream.error is None:
            self.usage.finished = True
        else:
            self.usage.fail(stream.error, self._status)

    def _headers(self) -> list[Header]:
        """Return headers that identify the request and its model in a user's report, and the caller's rate limits."""
        return [
            (b"request-id", f"req_{self.usage.id}".encode()),
            (b"x-bouchet-model", self.route.alias.encode()),
            *([(b"x-bouchet-note", self.note.encode())] if self.note else []),
            *self.usage.rate_limit_headers(),
        ]


def _stream_filter(request: UpstreamRequest) -> StreamFilter:
    route, model_name = request.route, request.model_name
    if request.endpoint is Endpoint.RESPONSES:
        return ResponsesStream(route, model_name, flat_names(request.client_body))
    if request.before is not None and request.writer.dialect is Dialect.ANTHROPIC:
        return ContinuedMessage(route, model_name, request.before)
    if request.before is not None:
        return ContinuedChat(route, model_name, request.before, request.hide_usage)
    if request.writer.dialect is Dialect.ANTHROPIC:
        return AnthropicStream(route, model_name, request.starts_inside, request.begun)
    if request.endpoint is Endpoint.COMPLETIONS:
        return CompletionStream(route, model_name, request.hide_usage)
    choices = request.body.get("n")
    return OpenAIStream(
        route,
        model_name,
        request.hide_usage,
        request.starts_inside,
        choices if isinstance(choices, int) else 1,
        request.writer.dialect,
    )


def filter_response(
    endpoint: Endpoint,
    body: bytes,
    route: Route,
    model_name: str,
    starts_inside: bool = False,
    names: Mapping[str, tuple[str, str]] | None = None,
) -> tuple[bytes, TokenCounts]:
    """Return a whole response as the client gets it, and its token counts; anything but a JSON object stays as it is.

    starts_inside: the prompt ended inside a think block. names: of functions in a namespace, as the client knows them.
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
    if endpoint is Endpoint.RESPONSES:
        complete_details(response.get("usage"))
        restore_names(response.get("output"), names or {})
    try:
        return orjson.dumps(response), parse_usage(response.get("usage"))
    except orjson.JSONEncodeError:
        # arguments of a tool call that are nested deeper than orjson writes
        return json.dumps(response).encode(), parse_usage(response.get("usage"))


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


# The request that the running task sends. LiteLLM's hook reads it; a client cannot write it.
current_request: ContextVar[UpstreamRequest | None] = ContextVar("current_request", default=None)


class Backend(ABC):
    """A way to send a request to its model."""

    @abstractmethod
    async def send(self, request: UpstreamRequest, scope: Scope) -> None:
        """Send the request and write its response to the client, or leave `request.unreachable`.

        scope: of the client's request.
        """
