"""The direct lane: exchanges go straight to the slot over pooled connections, their bytes relayed as they come."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import orjson

from bouchet_proxy.asgi import Scope
from bouchet_proxy.dialects.token_limits import Body
from bouchet_proxy.dialects.tokenize import count_bodies, ending_body, ends_inside
from bouchet_proxy.errors import timed_out, unreachable
from bouchet_proxy.http.connection import NoConnection, Place, Pool, Silent, Wire, WireError, post_head
from bouchet_proxy.http.server_auth import Target, prove, target_of
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.streams.client import while_there
from bouchet_proxy.upstream_request import Exchange, Reply

CONNECT_S = 10.0
# seconds without a byte; a long prompt on a busy GPU takes minutes, a whole answer without streaming longer
STREAM_SILENCE_S, WHOLE_SILENCE_S = 900.0, 1800.0
PING_S = 15.0
# vLLM closes idle connections after 5 s; a pooled one must be gone before
KEEPALIVE_S = 4.0
COUNT_S, COUNT_HEAD_BYTES, ANSWER_BYTES = 60.0, 200, 1 << 20
_COUNT = re.compile(rb'"count":\s*(\d+)')


class DirectLane:
    """Asks the models behind the gateway's slots."""

    def __init__(self, settings: ProxySettings) -> None:
        self._host, self._settings = settings.slot_host, settings
        self._pool = Pool(KEEPALIVE_S, CONNECT_S)
        self._opens: dict[tuple[str, bytes], bool] = {}

    async def __aenter__(self) -> DirectLane:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    async def carry(self, exchange: Exchange, reply: Reply, scope: Scope) -> None:
        """Asks vLLM and relays its answer; stops asking when the client leaves."""
        await while_there(reply.client, self._relay(exchange, reply))

    async def _relay(self, exchange: Exchange, reply: Reply) -> None:
        silence_s = STREAM_SILENCE_S if exchange.streams else WHOLE_SILENCE_S
        alias = exchange.route.alias
        try:
            async with self._asked(exchange, exchange.endpoint, exchange.body, silence_s) as wire:
                await reply.begin(wire.status, wire.headers.get(b"content-type", b"").decode("latin-1"))
                await _relay_body(wire, reply)
        except Silent:
            await reply.fail(timed_out(alias, silence_s))
        except WireError:
            await (reply.break_off() if reply.begun else reply.fail(unreachable(alias)))
        else:
            await reply.finish()

    async def count(self, exchange: Exchange) -> int | None:
        """The tokens of a prompt of any length, by the model's own tokenizer; None where it cannot say."""
        for body in count_bodies(exchange.endpoint, exchange.body):
            # the tokens follow, megabytes of them
            answer = await self._tokenized(exchange, body, COUNT_HEAD_BYTES)
            if answer is not None:
                found = _COUNT.search(answer)
                return int(found[1]) if found else None
        return None

    async def opens_thinking(self, exchange: Exchange) -> bool:
        """Whether the prompt ends inside a think block; asked once for each job and way to think."""
        body = ending_body(exchange.body)
        known = (exchange.route.job_name, orjson.dumps(body))
        if known not in self._opens:
            answer = await self._tokenized(exchange, body, ANSWER_BYTES)
            try:
                strings = orjson.loads(answer or b"{}").get("token_strs")
            except orjson.JSONDecodeError:
                strings = None
            if not isinstance(strings, list):
                return False
            self._opens[known] = ends_inside(strings)
        return self._opens[known]

    async def _tokenized(self, exchange: Exchange, body: Body, enough_bytes: int) -> bytes | None:
        """The beginning of what the model's tokenizer answers, None if it refuses or is away."""
        answer = b""
        try:
            async with self._asked(exchange, "/tokenize", body, COUNT_S) as wire:
                while len(answer) < enough_bytes and (piece := await wire.read()):
                    answer += piece
                return answer if wire.status == 200 else None
        except WireError:
            return None

    @asynccontextmanager
    async def _asked(self, exchange: Exchange, path: str, body: Body, silence_s: float) -> AsyncIterator[Wire]:
        target, data = target_of(exchange.route, exchange.key), orjson.dumps({**body, "model": exchange.route.alias})
        head = post_head(self._host, self._settings.slot_base_port + target.slot, path, target.key, len(data))
        async with self.asked(target, head, data, silence_s) as wire:
            yield wire

    @asynccontextmanager
    async def asked(self, target: Target, head: bytes, body: bytes, silence_s: float) -> AsyncIterator[Wire]:
        """A connection on which the server has begun to answer. A kept one may have been closed just now: then a
        second, fresh one is tried. Raises WireError."""
        place = self._place(target)
        wire = self._pool.kept(place) or await self._fresh(target)
        try:
            try:
                await wire.post(head, body, silence_s)
            except NoConnection as exc:
                if not exc.reused:
                    raise
                wire.close()
                wire = await self._fresh(target)
                await wire.post(head, body, silence_s)
            yield wire
        finally:
            self._pool.give(place, wire)

    async def proves(self, exchange: Exchange) -> bool:
        """Whether the job's own server is there, for carriers with connections of their own. A kept one says so too."""
        target = target_of(exchange.route, exchange.key)
        place = self._place(target)
        if not target.gives_proof or self._pool.has(place):
            return True
        try:
            self._pool.give(place, await self._fresh(target))
        except WireError:
            return False
        return True

    async def _fresh(self, target: Target) -> Wire:
        host, port, _ = self._place(target)
        wire = await self._pool.connect(host, port)
        try:
            await prove(wire, host, target)
        except BaseException:
            wire.close()
            raise
        return wire

    def _place(self, target: Target) -> Place:
        return self._host, self._settings.slot_base_port + target.slot, target.job_name


async def _relay_body(wire: Wire, reply: Reply) -> None:
    """Feeds the reply until the body ends; a client that gets nothing for a while gets pings."""
    signs, read = _Signs(reply), wire.read
    try:
        while piece := await read():
            if await reply.feed(piece):
                signs.spoken()
    finally:
        signs.stop()


class _Signs:
    """Pings while nothing else is said. One timer a stream, set anew when it runs out and not with every event."""

    def __init__(self, reply: Reply) -> None:
        self._reply, self._loop = reply, asyncio.get_running_loop()
        self._spoke_at = self._loop.time()
        self._timer = self._loop.call_later(PING_S, self._look)
        self._pinging: asyncio.Task[None] | None = None

    def spoken(self) -> None:
        """The client has just been sent something."""
        self._spoke_at = self._loop.time()

    def stop(self) -> None:
        """No more of them."""
        self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()

    def _look(self) -> None:
        left_s = self._spoke_at + PING_S - self._loop.time()
        if left_s <= 0:
            self._pinging = self._loop.create_task(self._reply.ping())
            self._spoke_at, left_s = self._loop.time(), PING_S
        self._timer = self._loop.call_later(left_s, self._look)
