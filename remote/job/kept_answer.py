"""One answer that outlives its connections, and a connection on which it is sent. Part of guard.py (resumable.py).

vLLM's side writes an answer, at most one reader sends it. Neither waits for the other longer than it must: a reader
waits for bytes, vLLM for room or, as without a guard, for the connection that it writes to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

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
    """A connection on which an answer is sent. `position`: the offset of the next byte.

    What is there already is sent by the connection's own task, in `run`. What vLLM adds then is sent by vLLM's task, in
    `follow`: to wake another task for every event would cost more than the event.
    """

    def __init__(self, answer: Answer, position: int, receive: Receive, send: Send, *more_headers: Header) -> None:
        self._answer, self._receive, self._send = answer, receive, send
        self._more_headers = more_headers
        self.position = position
        self._loop = asyncio.get_running_loop()
        self.lost = self._has_ended = False
        self._head_sent = self._complete = False
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        # vLLM's task, while it sends
        self._follower: asyncio.Task[Any] | None = None

    def watch(self) -> None:
        """Notice from now on when the connection is lost; only when the request has been read."""
        if not self._has_ended:
            self._watcher = self._loop.create_task(self._wait_for_loss())

    def leave(self) -> None:
        """End: the connection is lost, or another one has taken over, or the answer is not wanted any more.

        A server reports a disconnect after the last byte, too: what has been sent whole is not lost.
        """
        if self._complete:
            return
        if self._follower is not None and not self.lost:
            # it may hang in a connection that only seems to live
            self._follower.cancel()
        self.lost = True
        self.wake()

    def wake(self) -> None:
        """Look again whether there is something to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self) -> None:
        """Send the answer until its end, or until the connection is lost."""
        try:
            await self._catch_up()
            while not (self._complete or self.lost or self._answer.over):
                self._waiter = self._loop.create_future()
                await self._waiter
                await self._catch_up()
        finally:
            self._has_ended = True
            if self._watcher is not None:
                self._watcher.cancel()

    async def follow(self) -> None:
        """Send what has just been added, unless `run` is at work and will."""
        if self._waiter is None or self._waiter.done() or self._follower is not None:
            return
        task = self._follower = asyncio.current_task(self._loop)
        try:
            await self._catch_up()
        except asyncio.CancelledError:
            if not self.lost:
                raise
            if task is not None:
                task.uncancel()
        except OSError:
            self.lost = True
        finally:
            self._follower = None
        if self._complete or self.lost:
            self.wake()

    async def _catch_up(self) -> None:
        """Send all that is there."""
        answer = self._answer
        while not (self._complete or self.lost or answer.head is None):
            if not self._head_sent:
                self._head_sent = True
                await self._send(self._head())
                continue
            start, last = self.position - answer.first, answer.ended
            if start >= len(answer.data) and not last:
                return
            piece = bytes(memoryview(answer.data)[start:])
            self.position += len(piece)
            await self._send({"type": "http.response.body", "body": piece, "more_body": not last})
            self._complete = last
            answer.resume_writing()

    def _head(self) -> Message:
        head = dict(self._answer.head or {})
        if self._more_headers:
            kept = [one for one in head.get("headers", ()) if one[0].lower() not in (b"content-length", NAME)]
            head["headers"] = [*kept, *self._more_headers]
        return head

    async def _wait_for_loss(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()
