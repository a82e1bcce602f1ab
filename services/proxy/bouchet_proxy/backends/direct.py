"""The direct backend: requests go to vLLM over pooled connections, and its bytes are relayed as they come."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import TracebackType
from typing import Self

import orjson

from bouchet_proxy.asgi import Scope
from bouchet_proxy.dialects.tokenize import ends_in_think_block, prompt_end_body, tokenize_bodies
from bouchet_proxy.dialects.tokens import Body
from bouchet_proxy.errors import ProxyError, timed_out, unreachable
from bouchet_proxy.http.connection import (
    ConnectError,
    Connection,
    ReadTimeoutError,
    RemoteProtocolError,
    TransportError,
    post_head,
)
from bouchet_proxy.http.pool import ConnectionPool, JobServer, server_of
from bouchet_proxy.http.resumption import Aborts, AnswerLostError, Exchange, Patience
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.streams.response_writer import run_until_disconnect
from bouchet_proxy.upstream_errors import error_from_upstream
from bouchet_proxy.upstream_request import MAX_ERROR_BYTES, Backend, UpstreamRequest

CONNECT_TIMEOUT_S = 10.0
# seconds without a byte; a long prompt on a busy GPU takes minutes, a whole response without streaming longer
STREAM_READ_TIMEOUT_S, WHOLE_READ_TIMEOUT_S = 900.0, 1800.0
PING_S = 15.0
# how long a request without a stream, which cannot be sent pings, waits for its first connection to a link that breaks
CONNECT_HOLD_S = 120.0
# vLLM closes idle connections after 5 s; a pooled one must be closed before
KEEPALIVE_S = 4.0
TOKENIZE_TIMEOUT_S, COUNT_HEAD_BYTES, MAX_TOKENIZE_BYTES = 60.0, 200, 1 << 20
MAX_PROMPT_ENDS = 200
OK = 200
_COUNT = re.compile(rb'"count":\s*(\d+)')


class DirectBackend(Backend):
    """Sends requests to the vLLM servers behind the gateway's slots. A context manager that owns the connections."""

    def __init__(self, settings: ProxySettings) -> None:
        self._pool = ConnectionPool(settings.slot_host, settings.slot_base_port, KEEPALIVE_S, CONNECT_TIMEOUT_S)
        self._hold_s, self._hold_new_s = settings.hold_tunnel_s, settings.hold_starting_s
        self._aborts = Aborts()
        self._prompt_ends = PromptEndCache()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._aborts.close()
        self._pool.close()

    async def send(self, request: UpstreamRequest, scope: Scope) -> None:
        """Send the request to vLLM and relay its response; stop when the client disconnects."""
        await run_until_disconnect(request.writer, self._relay(request))

    async def _relay(self, request: UpstreamRequest) -> None:
        timeout_s = STREAM_READ_TIMEOUT_S if request.wants_stream else WHOLE_READ_TIMEOUT_S
        alias = request.route.alias
        try:
            with self._exchange(request, timeout_s) as exchange:
                await _relay_answer(exchange, request)
        except ReadTimeoutError:
            await request.fail(timed_out(alias, timeout_s))
        except AnswerLostError:
            await request.lose()
        except TransportError:
            # an answer that was waited for in vain is not waited for again
            request.may_retry = request.may_retry and not exchange.waited
            await (request.interrupt() if request.streaming else request.fail(unreachable(alias)))
        else:
            await request.finish()

    @contextmanager
    def _exchange(self, request: UpstreamRequest, timeout_s: float) -> Iterator[Exchange]:
        """Make an exchange; at its end, a server that may still work for no reader is asked to stop."""
        server, data = server_of(request.route, request.key), _encode(request.body, request)
        # who may be held with pings, or sent to a replica, is: by the dispatcher
        connect_s = 0.0 if request.may_retry else min(self._hold_s, CONNECT_HOLD_S)
        patience = Patience(partial(self._hold_limit, request), request.is_current, request.holding, connect_s)
        exchange = Exchange(self._pool, server, request.path, data, timeout_s, patience)
        try:
            yield exchange
        finally:
            needs_abort = exchange.needs_abort
            exchange.release()
            if needs_abort:
                self._aborts.start(exchange)

    def _hold_limit(self, request: UpstreamRequest) -> float:
        """Return how long a client waits for a lost connection: before there is content, as long as for a model."""
        return self._hold_s if request.has_content or not request.wants_stream else min(self._hold_s, self._hold_new_s)

    async def count_tokens(self, request: UpstreamRequest) -> int | None:
        """Count a prompt of any length with the model's own tokenizer; None where that fails."""
        try:
            return await self.count_prompt(request)
        except ProxyError:
            return None

    async def count_prompt(self, request: UpstreamRequest) -> int:
        """Do the same. Raises ProxyError with the server's reason."""
        status, head = 0, b""
        for body in tokenize_bodies(request.endpoint, request.body):
            # the count comes first, then the tokens, megabytes of them
            status, head = await self._tokenize(request, body, COUNT_HEAD_BYTES)
            if status == OK and (found := _COUNT.search(head)) is not None:
                return int(found[1])
        route = request.route
        if not status:
            raise unreachable(route.alias)
        raise error_from_upstream(status, head, route.alias, request.usage.endpoint, attached=route.attached)

    async def starts_inside_think_block(self, request: UpstreamRequest) -> bool:
        """Return whether the prompt ends inside a think block; asked once per job and set of template arguments."""
        body = prompt_end_body(request.body)
        slot, job_name, probe = request.route.slot, request.route.job_name, orjson.dumps(body)
        known = self._prompt_ends.get(slot, job_name, probe)
        if known is not None:
            return known
        status, data = await self._tokenize(request, body, MAX_TOKENIZE_BYTES)
        try:
            strings = orjson.loads(data).get("token_strs") if status == OK else None
        except orjson.JSONDecodeError:
            strings = None
        if not isinstance(strings, list):
            return False
        starts_inside = ends_in_think_block(strings)
        self._prompt_ends.put(slot, job_name, probe, starts_inside)
        return starts_inside

    async def _tokenize(self, request: UpstreamRequest, body: Body, enough_bytes: int) -> tuple[int, bytes]:
        """Return the status of the response of /tokenize and its beginning; a status of 0 if there is none."""
        data = b""
        try:
            async with self._post(request, "/tokenize", body, TOKENIZE_TIMEOUT_S) as connection:
                status = connection.status
                enough_bytes = enough_bytes if status == OK else MAX_ERROR_BYTES
                while len(data) < enough_bytes and (piece := await connection.read()):
                    data += piece
                return status, data
        except TransportError:
            return 0, b""

    @asynccontextmanager
    async def _post(
        self, request: UpstreamRequest, path: str, body: Body, read_timeout_s: float
    ) -> AsyncIterator[Connection]:
        server, data = server_of(request.route, request.key), _encode(body, request)
        head = post_head(path, self._pool.host_of(server), server.key, len(data))
        async with self.open_response(server, head, data, read_timeout_s) as connection:
            yield connection

    @asynccontextmanager
    async def open_response(
        self, server: JobServer, head: bytes, body: bytes, read_timeout_s: float
    ) -> AsyncIterator[Connection]:
        """Send a request and yield the connection on which its response has begun. Raises TransportError.

        The server may have closed a pooled connection just now: then a second, new one is tried.
        """
        connection = self._pool.take(server) or await self._pool.connect(server)
        try:
            try:
                await connection.send(head, body, read_timeout_s)
            except ConnectError as exc:
                if not exc.reused:
                    raise
                connection.close()
                connection = await self._pool.connect(server)
                await connection.send(head, body, read_timeout_s)
            yield connection
        finally:
            self._pool.release(server, connection)

    async def verify_server(self, request: UpstreamRequest) -> bool:
        """Authenticate the server for a backend with connections of its own. A pooled connection is proof enough."""
        server = server_of(request.route, request.key)
        if not server.authenticates or self._pool.has_idle(server):
            return True
        try:
            self._pool.release(server, await self._pool.connect(server))
        except TransportError:
            return False
        return True


class PromptEndCache:
    """Remembers how the prompts of the jobs end, by the request that asks for it, which clients can vary at will.

    Only hashes are kept, MAX_PROMPT_ENDS for a slot, and those of a job until the slot has another one.
    """

    def __init__(self) -> None:
        self._slots: dict[int, tuple[str, OrderedDict[bytes, bool]]] = {}

    def get(self, slot: int, job_name: str, probe: bytes) -> bool | None:
        """Return what is known for that job and request, None if nothing is."""
        job, ends = self._slots.get(slot, ("", OrderedDict[bytes, bool]()))
        if job != job_name or (known := ends.get(_digest(probe))) is None:
            return None
        ends.move_to_end(_digest(probe))
        return known

    def put(self, slot: int, job_name: str, probe: bytes, starts_inside: bool) -> None:
        """Remember it."""
        if self._slots.get(slot, ("",))[0] != job_name:
            self._slots[slot] = job_name, OrderedDict()
        ends = self._slots[slot][1]
        ends[_digest(probe)] = starts_inside
        if len(ends) > MAX_PROMPT_ENDS:
            ends.popitem(last=False)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _encode(body: Body, request: UpstreamRequest) -> bytes:
    return orjson.dumps({**body, "model": request.route.served_as})


async def _relay_answer(exchange: Exchange, request: UpstreamRequest) -> None:
    """Forward the answer until it ends, over as many connections as it takes; a client that waits gets pings."""
    pings = _PingTimer(request)
    try:
        connection = await exchange.open()
        content_type = connection.headers.get(b"content-type", b"").decode("latin-1")
        await request.start_response(connection.status, content_type)
        while True:
            read = connection.read
            try:
                while piece := await read():
                    exchange.position += len(piece)
                    if await request.forward(piece):
                        pings.postpone()
                return
            except RemoteProtocolError as exc:
                connection = await exchange.resume(exc)
    finally:
        pings.stop()


class _PingTimer:
    """Pings a client that is sent nothing else. One timer per stream, restarted when it fires, not at every event."""

    def __init__(self, request: UpstreamRequest) -> None:
        self._request, self._loop = request, asyncio.get_running_loop()
        self._last_sent_at = self._loop.time()
        self._timer = self._loop.call_later(PING_S, self._check)
        self._ping: asyncio.Task[None] | None = None

    def postpone(self) -> None:
        """Note that the client has just been sent something."""
        self._last_sent_at = self._loop.time()

    def stop(self) -> None:
        """Stop pinging."""
        self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()

    def _check(self) -> None:
        left_s = self._last_sent_at + PING_S - self._loop.time()
        if left_s <= 0:
            self._ping = self._loop.create_task(self._request.ping())
            self._last_sent_at, left_s = self._loop.time(), PING_S
        self._timer = self._loop.call_later(left_s, self._check)
