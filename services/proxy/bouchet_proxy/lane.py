"""The direct lane: exchanges go straight to the slot over pooled connections, their bytes relayed as they come."""

from __future__ import annotations

import asyncio
from types import TracebackType

import aiohttp
import orjson

from .asgi import Receive, Scope, Send
from .exchange import Exchange, Reply
from .settings import Settings
from .wording import timed_out, unreachable

CONNECT_S = 10.0
# seconds without a byte; a long prompt on a busy GPU takes minutes, a whole answer without streaming longer
STREAM_SILENCE_S, WHOLE_SILENCE_S = 900.0, 1800.0
PING_S = 15.0
# vLLM closes idle connections after 5 s; a pooled one must be gone before
KEEPALIVE_S = 4.0


class DirectLane:
    """The pool of connections to the gateway's slots."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> DirectLane:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=60)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def carry(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Asks vLLM and relays its answer; stops asking when the client leaves."""
        relay = asyncio.ensure_future(self._relay(exchange, Reply(exchange, send)))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((relay, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            relay.cancel()
            await asyncio.gather(relay, gone, return_exceptions=True)
        if not relay.cancelled():
            relay.result()

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
    """Feeds the reply until the body ends; a silent stream gets pings."""
    while True:
        try:
            async with asyncio.timeout(PING_S):
                piece = await response.content.readany()
        except TimeoutError as exc:
            if isinstance(exc, aiohttp.ServerTimeoutError):
                raise
            await reply.ping()
            continue
        if not piece:
            return
        await reply.feed(piece)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
