"""One answer that outlives its connections, and a connection on which it is sent. Part of guard.py (resumable.py).

vLLM's side writes an answer, at most one reader sends it. Neither waits for the other longer than it must: a reader
waits for bytes, vLLM for room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

NAME = b"x-bouchet-stream"


class Answer:
    """One answer, and its reader where it has one. `data` begins at offset `first` of the body."""

    def __init__(self, name: str, app_wants_error: bool) -> None:
        self.name, self._app_wants_error = name, app_wants_error
        self.head: Message | None = None
        self.data = bytearray()
        self.first = 0
        self.ended = False
        self.failure: BaseException | None = None
        self.aborted = asyncio.Event()
        self.reader: Reader | None = None
        self.attempt = 0
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._paused: asyncio.Future[None] | None = None

    @property
    def end(self) -> int:
        """The offset after the last byte so far."""
        return self.first + len(self.data)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.ended or self.failure is not None or self.aborted.is_set()

    def wake(self) -> None:
        """Let the reader look again."""
        if self.reader is not None:
            self.reader.wake()

    def resume_writing(self) -> None:
        """Let vLLM look again whether it may go on."""
        if self._paused is not None and not self._paused.done():
            self._paused.set_result(None)

    async def wait_for_space(self) -> None:
        """Wait until `resume_writing`."""
        self._paused = asyncio.get_running_loop().create_future()
        await self._paused

    def trim(self, kept: int) -> int:
        """Forget what the reader has been sent, but for that many bytes; return how many were forgotten."""
        sent = self.end if self.reader is None else self.reader.position
        surplus = max(0, min(len(self.data) - kept, sent - self.first))
        if surplus:
            del self.data[:surplus]
            self.first += surplus
        return surplus

    def refuse_more(self) -> None:
        """Answer vLLM's `send` after an abort, as its server would."""
        if self._app_wants_error:
            raise OSError("the client has left")


class Reader:
    """A connection on which an answer is sent. `position`: the offset of the next byte."""

    def __init__(self, answer: Answer, position: int, receive: Receive, send: Send) -> None:
        self._answer, self._receive, self._send = answer, receive, send
        self.position = position
        self.lost = self._has_ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Notice from now on when the connection is lost; only when the request has been read."""
        if not self._has_ended:
            self._watcher = asyncio.get_running_loop().create_task(self._wait_for_loss())

    def leave(self) -> None:
        """End: the connection is lost, or another one has taken over."""
        self.lost = True
        self.wake()

    def wake(self) -> None:
        """Look again whether there is something to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self, more_headers: Headers) -> None:
        """Send the answer until its end, or until the connection is lost."""
        try:
            while self._answer.head is None and not self._is_over():
                await self._wait()
            if self._answer.head is not None and not self.lost:
                await self._send_head(more_headers)
                await self._send_body()
        finally:
            self._has_ended = True
            if self._watcher is not None:
                self._watcher.cancel()

    async def _send_head(self, more_headers: Headers) -> None:
        head = dict(self._answer.head or {})
        if more_headers:
            kept = [one for one in head.get("headers", ()) if one[0].lower() not in (b"content-length", NAME)]
            head["headers"] = [*kept, *more_headers]
        await self._send(head)

    async def _send_body(self) -> None:
        answer = self._answer
        while not self.lost:
            piece = bytes(memoryview(answer.data)[self.position - answer.first :])
            last = answer.ended
            if piece or last:
                self.position += len(piece)
                await self._send({"type": "http.response.body", "body": piece, "more_body": not last})
                answer.resume_writing()
                if last:
                    return
            elif self._is_over():
                return
            else:
                await self._wait()

    def _is_over(self) -> bool:
        return self.lost or self._answer.over

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def _wait_for_loss(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()
