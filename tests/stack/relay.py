"""A relay between a client and the proxy that records both sides, and checks every stream on its way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from tests.proxy.stream_checker import IllegalStreamError, check_stream

MOST_BYTES = 64 << 20
# each hop sets these itself
HOP_HEADERS = {"host", "content-length", "transfer-encoding", "connection", "content-encoding", "accept-encoding"}


@dataclass
class Seen:
    """One request and its answer. `body` is {} for a GET; `illegal` says what is wrong with the answer's stream.

    at: the Unix time at which it came.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.time)
    status: int = 0
    answer: bytes = b""
    illegal: str = ""


class Relay:
    """The relay's state; `url` is where it listens."""

    def __init__(self, target: str) -> None:
        self.target, self.url = target, ""
        self.seen: list[Seen] = []

    def messages(self) -> list[Seen]:
        """Return the conversations' answered requests, oldest first."""
        return [one for one in self.seen if one.path.endswith("/messages") and one.status == 200]

    def statuses(self) -> list[int]:
        """Return the status of each request to a model."""
        return [one.status for one in self.seen if one.body]

    def check(self) -> None:
        """Raise AssertionError if a stream was illegal."""
        wrong = [f"{one.path}: {one.illegal}" for one in self.seen if one.illegal]
        assert not wrong, wrong

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        one = Seen(request.path, dict(request.headers), json.loads(raw) if raw else {})
        self.seen.append(one)
        kept = {name: value for name, value in request.headers.items() if name.lower() not in HOP_HEADERS}
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.request(request.method, self.target + request.path_qs, data=raw, headers=kept) as answer,
        ):
            return await self._relay(request, answer, one)

    async def _relay(self, request: web.Request, answer: aiohttp.ClientResponse, one: Seen) -> web.StreamResponse:
        one.status = answer.status
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS}
        response = web.StreamResponse(status=answer.status, headers=kept)
        whole = False
        try:
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                one.answer += piece
                await response.write(piece)
            whole = True
            await response.write_eof()
        finally:
            if answer.content_type == "text/event-stream":
                self._check(one, whole)
        return response

    def _check(self, one: Seen, whole: bool) -> None:
        try:
            check_stream(one.path, one.answer, cut_off=not whole)
        except IllegalStreamError as exc:
            one.illegal = str(exc)


@contextmanager
def open_relay(target: str) -> Iterator[Relay]:
    """Run a relay to that address in a thread; at its end every stream must have been legal."""
    relay, loop = Relay(target), asyncio.new_event_loop()
    started, stopping = threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", relay.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        relay.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10), "the relay did not start"
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(timeout=70)
        loop.close()
    relay.check()
