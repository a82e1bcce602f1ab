"""Answers that outlive their connections: how a cut link goes unnoticed. Part of guard.py, in the container.

A request with `x-bouchet-stream: ID` (32 hex digits, made by the proxy) is answered as usual, and its answer is kept
while it is produced. When the connection is lost, vLLM does not learn of it: it goes on, and the rest waits here.

    GET /bouchet/streams/ID?from=N    the answer from byte N of its body on, and what follows; the head is the answer's
                                      own, with `x-bouchet-stream: resumed`. `x-bouchet-attempt` counts from 1: a higher
                                      one takes over from a connection that only seems to live, a lower one is refused
    DELETE /bouchet/streams/ID        the client has left: vLLM's request is aborted, the answer forgotten

A refusal has `x-bouchet-stream: unknown`, `gone` or `busy`. Bounds: BOUCHET_RESUME_S without a reader ends a request,
and is how long a finished answer is kept; BOUCHET_RESUME_MIB is the memory for all answers. Without room, vLLM waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from kept_answer import NAME, Answer, Message, Reader, Receive, Send

App = Callable[[Message, Receive, Send], Awaitable[None]]

PREFIX = "/bouchet/streams/"
STREAM_ID = re.compile(r"[0-9a-f]{32}")
OFFSET = re.compile(r"from=(\d{1,15})")
ATTEMPT = re.compile(rb"\d{1,9}")
log = logging.getLogger("uvicorn.error")

KEEP_S, TOTAL_MIB = 600.0, 56
# of one answer: what is kept that has been sent, and what may wait for a reader that is gone
ANSWER_BYTES = 4 << 20
# kept of what was sent when memory is short: more than a connection has under way, most of the time
TAIL_BYTES = 64 << 10
# a reader that is further behind makes vLLM wait
MAX_BEHIND = 256 << 10
# vLLM ends an aborted request itself; what does not is cancelled
ABORT_GRACE_S = 1.0
MAX_ABORTED = 1000


class Answers:
    """All answers of this server that a reader may ask for."""

    def __init__(self, keep_s: float, total_bytes: int) -> None:
        self._keep_s, self._total_bytes = keep_s, total_bytes
        self._answers: dict[str, Answer] = {}
        # sent to their end: the first to go when memory is short, oldest first
        self._sent: OrderedDict[str, Answer] = OrderedDict()
        self._waiting: set[Answer] = set()
        self._aborted: OrderedDict[str, None] = OrderedDict()
        self.kept_bytes = 0

    @classmethod
    def from_environment(cls) -> Answers:
        """Read the bounds; what is not a number counts as not set."""
        keep_s, mib = os.environ.get("BOUCHET_RESUME_S", ""), os.environ.get("BOUCHET_RESUME_MIB", "")
        return cls(float(keep_s) if keep_s.isdigit() else KEEP_S, (int(mib) if mib.isdigit() else TOTAL_MIB) << 20)

    # requests

    async def run(self, name: str, app: App, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a new request; the answer survives this connection."""
        if name in self._answers or name in self._aborted:
            await refuse(send, 409, "busy", "a request of this id was received before")
            return
        version = str(scope.get("asgi", {}).get("spec_version", "2.0")).split(".")
        answer = Answer(name, app_wants_error=[int(part) for part in version] >= [2, 4])
        reader = answer.reader = Reader(answer, 0, receive, send)
        self._answers[name] = answer
        answer.task = asyncio.get_running_loop().create_task(self._produce(answer, app, scope, receive, reader))
        await self._read(answer, reader)
        if answer.failure is not None and not answer.aborted.is_set() and not reader.lost:
            raise answer.failure

    async def _produce(self, answer: Answer, app: App, scope: Message, receive: Receive, first: Reader) -> None:
        """Run vLLM's part of a request to its end."""
        body_read = False

        async def receive_body() -> Message:
            nonlocal body_read
            if not body_read:
                message = await receive()
                if message["type"] == "http.disconnect":
                    # without its whole request there is no answer to keep
                    self._end(answer)
                elif not message.get("more_body", False):
                    body_read = True
                    first.watch()
                return message
            await answer.aborted.wait()
            return {"type": "http.disconnect"}

        try:
            await app(scope, receive_body, lambda message: self._take(answer, message))
            if not answer.ended:
                answer.failure = RuntimeError("the answer ended before it was complete")
        except asyncio.CancelledError:
            answer.failure = ConnectionAbortedError("the request was aborted")
        except Exception as exc:
            answer.failure = exc
            if first.lost:
                log.exception("a request whose connection was lost failed")
        answer.wake()

    async def _take(self, answer: Answer, message: Message) -> None:
        """Keep what vLLM sends; wait while there is no room for more."""
        if answer.aborted.is_set():
            answer.refuse_more()
            return
        if message["type"] == "http.response.start":
            answer.head = message
        elif message["type"] == "http.response.body":
            piece = message.get("body", b"")
            answer.data += piece
            self.kept_bytes += len(piece)
            answer.ended = not message.get("more_body", False)
        if answer.reader is not None:
            await answer.reader.follow()
        if len(answer.data) > ANSWER_BYTES and answer.reader is not None:
            self.kept_bytes -= answer.trim(ANSWER_BYTES)
        if self.kept_bytes > self._total_bytes:
            self._free()
        while self._is_full(answer) and not answer.over:
            self._waiting.add(answer)
            try:
                await answer.wait_for_space()
            finally:
                self._waiting.discard(answer)

    def _is_full(self, answer: Answer) -> bool:
        if answer.reader is not None:
            return answer.end - answer.reader.position > MAX_BEHIND
        return len(answer.data) > 2 * ANSWER_BYTES or self.kept_bytes > self._total_bytes

    def _free(self) -> None:
        """Forget what is needed least: answers that were sent to their end, then what was sent of the others."""
        while self._sent and self.kept_bytes > self._total_bytes:
            self._forget(next(iter(self._sent.values())))
        if self.kept_bytes > self._total_bytes:
            for answer in self._answers.values():
                if answer.reader is not None:
                    self.kept_bytes -= answer.trim(TAIL_BYTES)
        self._let_go_on()

    def _let_go_on(self) -> None:
        for answer in tuple(self._waiting):
            answer.resume_writing()

    # readers

    async def serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request for PREFIX."""
        name = scope["path"][len(PREFIX) :]
        answer = self._answers.get(name) if STREAM_ID.fullmatch(name) else None
        if scope["method"] == "DELETE":
            self.abort(name)
            await send_json(send, 200 if answer else 404, {"aborted": bool(answer)}, "gone" if answer else "unknown")
        elif scope["method"] != "GET" or answer is None:
            await refuse(send, 404, "unknown", "no answer of this id is kept")
        else:
            await self._resume(answer, scope, receive, send)

    async def _resume(self, answer: Answer, scope: Message, receive: Receive, send: Send) -> None:
        offset = OFFSET.fullmatch(scope.get("query_string", b"").decode("latin-1"))
        attempts = [value for name, value in scope["headers"] if name == b"x-bouchet-attempt"]
        if offset is None or len(attempts) != 1 or not ATTEMPT.fullmatch(attempts[0]):
            await refuse(send, 400, "unknown", "`from` and x-bouchet-attempt must be numbers")
            return
        position, attempt = int(offset[1]), int(attempts[0])
        if attempt <= answer.attempt:
            await refuse(send, 409, "busy", "a later connection reads this answer")
        elif not answer.first <= position <= answer.end or (answer.failure is not None and position == answer.end):
            await refuse(send, 410, "gone", "that part of the answer is not kept")
        else:
            answer.attempt = attempt
            if answer.reader is not None:
                answer.reader.leave()
            self._keep(answer)
            reader = answer.reader = Reader(answer, position, receive, send, (NAME, b"resumed"))
            reader.watch()
            answer.resume_writing()
            await self._read(answer, reader)

    async def _read(self, answer: Answer, reader: Reader) -> None:
        """Serve one reader; afterwards the answer is kept for another one, for a while."""
        try:
            await reader.run()
        finally:
            if answer.reader is reader:
                answer.reader = None
                answer.resume_writing()
                if self._answers.get(answer.name) is answer:
                    if answer.ended and not reader.lost:
                        self._sent[answer.name] = answer
                        self.kept_bytes -= answer.trim(ANSWER_BYTES)
                    answer.timer = asyncio.get_running_loop().call_later(self._keep_s, self.abort, answer.name)

    def _keep(self, answer: Answer) -> None:
        """Stop the time of an answer that has, or gets, a reader."""
        self._sent.pop(answer.name, None)
        if answer.timer is not None:
            answer.timer.cancel()
            answer.timer = None

    # ends

    def abort(self, name: str) -> None:
        """End the request of that id, and forget its answer; a request of that id that comes later is refused."""
        if not STREAM_ID.fullmatch(name):
            return
        answer = self._answers.get(name)
        if answer is None or not answer.over:
            self._aborted[name] = None
            if len(self._aborted) > MAX_ABORTED:
                self._aborted.popitem(last=False)
        if answer is not None:
            self._end(answer)

    def _end(self, answer: Answer) -> None:
        self._forget(answer)
        answer.aborted.set()
        if answer.reader is not None:
            answer.reader.leave()
        answer.resume_writing()
        if answer.task is not None and not answer.task.done():
            asyncio.get_running_loop().call_later(ABORT_GRACE_S, answer.task.cancel)

    def _forget(self, answer: Answer) -> None:
        self._keep(answer)
        self._answers.pop(answer.name, None)
        self.kept_bytes -= len(answer.data)
        answer.first, answer.data = answer.end, bytearray()
        self._let_go_on()


def stream_id(scope: Message) -> str:
    """Return the id in a request's headers, '' where there is none."""
    found = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == NAME]
    return found[0] if len(found) == 1 and STREAM_ID.fullmatch(found[0]) else ""


async def refuse(send: Send, status: int, kind: str, message: str) -> None:
    """Refuse a request for an answer."""
    await send_json(send, status, {"error": {"message": message, "type": "guard", "code": status}}, kind)


async def send_json(send: Send, status: int, value: object, kind: str) -> None:
    """Send a whole response with a JSON body. kind: of the `x-bouchet-stream` header."""
    body = json.dumps(value).encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (NAME, kind.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
