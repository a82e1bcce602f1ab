"""A server that fails once in one way and then answers: what a client asks again, and what it shows to its person.

`FaultyAnswer.parse` reads how: `status:503`, `status:429:retry-after=1`, or a stream that ends badly at one of three
places: `first:failed:server_error` (before any event), `begun:cut`, `text:close`, `text:error:overloaded_error`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

ANSWER = "GOOD ANSWER"
MESSAGE = "it failed once"
START_TIMEOUT_S = 30
_RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "in_progress", "output": []}
_USAGE = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 7,
}
_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": None}
_MESSAGE_USAGE = {"input_tokens": 5, "output_tokens": 2}
Events = list[bytes]


@dataclass(frozen=True)
class FaultyAnswer:
    """What the first request gets. place: how much of a stream comes before its end; headers: of a status."""

    kind: str
    detail: str = ""
    place: str = "first"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> FaultyAnswer:
        """Read the short form of this module's docstring."""
        first, kind, *more = text.split(":")
        if first == "status":
            return cls("status", kind, headers=dict(pair.split("=") for pair in more))
        return cls(kind, more[0] if more else "", first)


@dataclass
class FailingServer:
    """The running server. asked: how many requests for an answer it got."""

    fault: FaultyAnswer
    url: str = ""
    asked: int = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve any path: a list without models, else an answer in the path's dialect."""
        if request.method != "POST":
            return web.json_response({"object": "list", "data": [], "models": []})
        body, self.asked = await request.json(), self.asked + 1
        dialect = _DIALECTS[request.path.removeprefix("/v1")]
        if self.asked > 1:
            if not body.get("stream"):
                return web.json_response(dialect.whole())
            return await _send(request, dialect.events("all"), cut=False)
        if self.fault.kind == "status":
            error = {"type": "server_error", "message": MESSAGE, "param": None, "code": None}
            return web.json_response({"error": error}, status=int(self.fault.detail), headers=self.fault.headers)
        events = dialect.events(self.fault.place)
        if self.fault.kind in ("failed", "error"):
            events.append(dialect.end(self.fault.kind, self.fault.detail))
        return await _send(request, events, cut=self.fault.kind == "cut")


async def _send(request: web.Request, events: Events, cut: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    if cut:
        assert request.transport is not None
        request.transport.abort()
    else:
        await response.write_eof()
    return response


def _event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


class ResponsesDialect:
    """OpenAI's responses."""

    def whole(self) -> dict[str, Any]:
        """Return a whole answer."""
        return {**_RESPONSE, "status": "completed", "output": [self._item(ANSWER)], "usage": _USAGE}

    def events(self, place: str) -> Events:
        """Return the events up to that place."""
        head = [_event("response.created", sequence_number=0, response=_RESPONSE)]
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        empty = {**self._item(""), "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        text = [
            _event("response.output_item.added", sequence_number=1, output_index=0, item=empty),
            _event("response.content_part.added", sequence_number=2, part=part, **at),
            _event("response.output_text.delta", sequence_number=3, delta=ANSWER[:4], logprobs=[], **at),
        ]
        if place != "all":
            return {"first": [], "begun": head, "text": head + text}[place]
        item = self._item(ANSWER)
        end = [
            _event("response.output_text.delta", sequence_number=4, delta=ANSWER[4:], logprobs=[], **at),
            _event("response.output_text.done", sequence_number=5, text=ANSWER, logprobs=[], **at),
            _event("response.content_part.done", sequence_number=6, part=item["content"][0], **at),
            _event("response.output_item.done", sequence_number=7, output_index=0, item=item),
            _event("response.completed", sequence_number=8, response=self.whole()),
        ]
        return head + text + end

    def end(self, kind: str, code: str) -> bytes:
        """Return the last event of an answer that failed."""
        if kind == "error":
            return _event("error", sequence_number=9, code=code, message=MESSAGE, param=None)
        failed = {**_RESPONSE, "status": "failed", "error": {"code": code, "message": MESSAGE}}
        return _event("response.failed", sequence_number=9, response=failed)

    @staticmethod
    def _item(text: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}


class MessagesDialect:
    """Anthropic's messages."""

    def whole(self) -> dict[str, Any]:
        """Return a whole answer."""
        content = [{"type": "text", "text": ANSWER}]
        return {**_MESSAGE, "content": content, "stop_reason": "end_turn", "usage": _MESSAGE_USAGE}

    def events(self, place: str) -> Events:
        """Return the events up to that place."""
        head = [_event("message_start", message={**_MESSAGE, "content": [], "usage": _MESSAGE_USAGE})]
        text = [
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            _event("content_block_delta", index=0, delta={"type": "text_delta", "text": ANSWER}),
        ]
        stop = {"stop_reason": "end_turn", "stop_sequence": None}
        end = [
            _event("content_block_stop", index=0),
            _event("message_delta", delta=stop, usage=_MESSAGE_USAGE),
            _event("message_stop"),
        ]
        return {"first": [], "begun": head, "text": head + text, "all": head + text + end}[place]

    def end(self, kind: str, code: str) -> bytes:
        """Return the last event of an answer that failed."""
        del kind
        return _event("error", error={"type": code, "message": MESSAGE})


class ChatDialect:
    """OpenAI's chats."""

    def whole(self) -> dict[str, Any]:
        """Return a whole answer."""
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

    def events(self, place: str) -> Events:
        """Return the events up to that place."""
        head, text = [self._chunk({"role": "assistant", "content": ""})], [self._chunk({"content": ANSWER})]
        end = [self._chunk({}, "stop"), b"data: [DONE]\n\n"]
        return {"first": [], "begun": head, "text": head + text, "all": head + text + end}[place]

    def end(self, kind: str, code: str) -> bytes:
        """Return the last event of an answer that failed."""
        del kind
        return f"data: {json.dumps({'error': {'type': code, 'message': MESSAGE, 'code': code}})}\n\n".encode()

    @staticmethod
    def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
        return f"data: {json.dumps(chunk)}\n\n".encode()


_DIALECTS: dict[str, ResponsesDialect | MessagesDialect | ChatDialect] = {
    "/responses": ResponsesDialect(),
    "/messages": MessagesDialect(),
    "/chat/completions": ChatDialect(),
}


@contextmanager
def serve_fault(text: str) -> Iterator[FailingServer]:
    """Serve on any free port of 127.0.0.1."""
    server, loop = FailingServer(FaultyAnswer.parse(text)), asyncio.new_event_loop()
    ready, stopping = threading.Event(), asyncio.Event()

    async def run() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", server.serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="failing server")
    thread.start()
    try:
        assert ready.wait(START_TIMEOUT_S), "the failing server did not start"
        yield server
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()
