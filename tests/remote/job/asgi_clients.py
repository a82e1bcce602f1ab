"""vLLM's app and its clients, as the guard sees them, without a server: for tests of answers that are kept."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.remote.compute_node import KEY

HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PATIENCE_S = 10


class Model:
    """vLLM's app: sends what `say` is given, until `end`, a failure, or a disconnect."""

    def __init__(self) -> None:
        self.requests = 0
        self.disconnected = asyncio.Event()
        self.pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        if (await receive())["type"] == "http.disconnect":
            self.disconnected.set()
            return
        work = asyncio.ensure_future(self._answer(send))
        left = asyncio.ensure_future(receive())
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            self.disconnected.set()
        for task in (work, left):
            task.cancel()
        if work.done() and not work.cancelled():
            work.result()

    async def _answer(self, send: Any) -> None:
        await send(HEAD)
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self.sent += len(piece)
        await send({"type": "http.response.body", "body": b""})

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.pieces.put_nowait(piece)

    def end(self) -> None:
        self.pieces.put_nowait(None)


class Client:
    """One connection: what it received, and its loss. slow: it takes nothing after the head; broken: it raises then."""

    def __init__(
        self, guarded: Any, method: str, path: str, slow: bool = False, broken: bool = False, **headers: str
    ) -> None:
        given = {"authorization": f"Bearer {KEY}", **headers}
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
        path, _, query = path.partition("?")
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
        self.messages: list[Any] = []
        self.body, self.whole = b"", False
        self._lost, self._has_sent, self._slow = asyncio.Event(), False, slow
        self._broken = broken
        self._changed = asyncio.Condition()
        self.task = asyncio.ensure_future(guarded(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    def lose(self) -> None:
        self._lost.set()

    async def has(self, body: bytes) -> None:
        """Wait until exactly this was received."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.body == body)

    async def done(self) -> Client:
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        return self

    async def _receive(self) -> Any:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await self._lost.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._lost.is_set():
            return
        if self._broken and self.messages:
            raise BrokenPipeError
        if self._slow and self.messages:
            await self._lost.wait()
        self.messages.append(message)
        if message["type"] == "http.response.body":
            self.body += message["body"]
            self.whole = not message.get("more_body", False)
        async with self._changed:
            self._changed.notify_all()
