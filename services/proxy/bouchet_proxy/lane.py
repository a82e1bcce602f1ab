"""The direct lane: exchanges go straight to the slot over pooled connections, their bytes relayed as they come."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType

import aiohttp
import orjson

from .asgi import Scope
from .clamp import Body
from .counting import count_bodies, ending_body, ends_inside
from .exchange import Exchange, Reply
from .settings import Settings
from .wording import timed_out, unreachable

CONNECT_S = 10.0
# seconds without a byte; a long prompt on a busy GPU takes minutes, a whole answer without streaming longer
STREAM_SILENCE_S, WHOLE_SILENCE_S = 900.0, 1800.0
PING_S = 15.0
# vLLM closes idle connections after 5 s; a pooled one must be gone before
KEEPALIVE_S = 4.0
COUNT_S, COUNT_HEAD_BYTES = 60.0, 200
_COUNT = re.compile(rb'"count":\s*(\d+)')


class DirectLane:
    """The pool of connections to the gateway's slots."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._opens: dict[tuple[str, bytes], bool] = {}

    async def __aenter__(self) -> DirectLane:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=60)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def carry(self, exchange: Exchange, reply: Reply, scope: Scope) -> None:
        """Asks vLLM and relays its answer; stops asking when the client leaves."""
        asker, left = asyncio.current_task(), False
        assert asker is not None

        def stop(_: asyncio.Task[None]) -> None:
            nonlocal left
            if not reply.client.answered:
                left = True
                asker.cancel()

        gone = reply.client.gone()
        gone.add_done_callback(stop)
        try:
            await self._relay(exchange, reply)
        except asyncio.CancelledError:
            if not left or asker.uncancel() > 0:
                raise
        finally:
            gone.remove_done_callback(stop)

    async def _relay(self, exchange: Exchange, reply: Reply) -> None:
        silence_s = STREAM_SILENCE_S if exchange.streams else WHOLE_SILENCE_S
        alias = exchange.route.alias
        try:
            async with await self._ask(exchange, silence_s) as response:
                await reply.begin(response.status, response.headers.get("content-type", ""))
                await _relay_body(response, reply)
            await reply.finish()
        except (TimeoutError, aiohttp.ServerTimeoutError):
            await reply.fail(timed_out(alias, silence_s))
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, ConnectionError):
            await (reply.break_off() if reply.begun else reply.fail(unreachable(alias)))

    async def count(self, exchange: Exchange) -> int | None:
        """The tokens of a prompt of any length, by the model's own tokenizer; None where it cannot say."""
        assert self._session is not None, "the lane is used before it is opened"
        url = f"{self._settings.slot_url(exchange.route.slot)}/tokenize"
        headers = {"authorization": f"Bearer {exchange.key}", "content-type": "application/json"}
        for body in count_bodies(exchange.endpoint, exchange.body):
            data = orjson.dumps({**body, "model": exchange.route.alias})
            try:
                timeout = aiohttp.ClientTimeout(total=COUNT_S)
                async with self._session.post(url, data=data, headers=headers, timeout=timeout) as response:
                    if response.status == 200:
                        # the tokens follow, megabytes of them
                        found = _COUNT.search(await response.content.read(COUNT_HEAD_BYTES))
                        return int(found[1]) if found else None
            except (TimeoutError, aiohttp.ClientError):
                return None
        return None

    async def opens_thinking(self, exchange: Exchange) -> bool:
        """Whether the prompt ends inside a think block; asked once for each job and way to think."""
        body = ending_body(exchange.body)
        known = (exchange.route.job_name, orjson.dumps(body))
        if known not in self._opens:
            found = await self._token_strs(exchange, body)
            if found is None:
                return False
            self._opens[known] = ends_inside(found)
        return self._opens[known]

    async def _token_strs(self, exchange: Exchange, body: Body) -> list[str] | None:
        assert self._session is not None, "the lane is used before it is opened"
        url = f"{self._settings.slot_url(exchange.route.slot)}/tokenize"
        headers = {"authorization": f"Bearer {exchange.key}", "content-type": "application/json"}
        data, timeout = orjson.dumps({**body, "model": exchange.route.alias}), aiohttp.ClientTimeout(total=COUNT_S)
        try:
            async with self._session.post(url, data=data, headers=headers, timeout=timeout) as response:
                answer = await response.json() if response.status == 200 else {}
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return None
        strings = answer.get("token_strs")
        return strings if isinstance(strings, list) else None

    async def _ask(self, exchange: Exchange, silence_s: float) -> aiohttp.ClientResponse:
        """The server's answer. A pooled connection may have been closed just now: then a second, fresh one is tried."""
        try:
            return await self._post(exchange, silence_s)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if isinstance(exc, aiohttp.ClientConnectorError):
                raise
            return await self._post(exchange, silence_s)

    async def _post(self, exchange: Exchange, silence_s: float) -> aiohttp.ClientResponse:
        assert self._session is not None, "the lane is used before it is opened"
        return await self._session.post(
            self._settings.slot_url(exchange.route.slot) + exchange.endpoint,
            data=orjson.dumps({**exchange.body, "model": exchange.route.alias}),
            headers={"authorization": f"Bearer {exchange.key}", "content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
            allow_redirects=False,
        )


async def _relay_body(response: aiohttp.ClientResponse, reply: Reply) -> None:
    """Feeds the reply until the body ends; a client that gets nothing for a while gets pings."""
    signs, read = _Signs(reply), response.content.readany
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
