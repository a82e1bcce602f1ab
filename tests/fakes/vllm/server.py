"""A fake vLLM: a real HTTP server in a thread, with the endpoints that the proxy uses. Prompts script its answers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER

from .payloads import (
    anthropic_events,
    anthropic_message,
    chat_completion,
    chat_events,
    completion_events,
    overflow_message,
    response_events,
    response_items,
    response_object,
    text_completion,
)
from .script import Body, Script, begun_answer, count_prompt_tokens, last_input_text, last_user_text

VERSION = "0.32.0"
MAX_BODY_BYTES = 1 << 27
START_TIMEOUT_S = 30
GATE_TIMEOUT_S = 30.0
Error = tuple[int, dict[str, str]]


@dataclass
class FakeVLLM:
    """The server's state. key: its API key. window: context length in tokens, which are words here.

    node_port: the port on its node, which its proofs contain. A model named `thinker` has a chat template that ends
    prompts inside a think block.
    """

    names: tuple[str, ...]
    key: str
    window: int = 4096
    node_port: int = 0
    embeds: bool = False
    port: int = 0
    # where it is set, each event of a stream takes one from it before it is made; events: how many were made
    gate: threading.Semaphore | None = None
    events: int = 0
    # what a stream has before each of its events
    comment: bytes = b""
    # how often a proof was requested, and how many streams a client left before their end
    proofs: int = 0
    aborted: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    # the page of its metrics, which it has only if there is one
    metrics: Callable[[], str] | None = None

    @property
    def last_body(self) -> Body:
        """The body of the last request."""
        body: Body = self.requests[-1]["body"]
        return body

    def app(self) -> web.Application:
        """Build the app with the endpoints."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/responses", self._responses)
        app.router.add_post("/tokenize", self._tokenize)
        if self.metrics is not None:
            app.router.add_get("/metrics", self._metrics)
        if self.embeds:
            app.router.add_post("/v1/embeddings", self._embeddings)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        """Answer like the guard in front of a real server: a nonce gets a proof."""
        self.proofs += NONCE_HEADER in request.headers
        message = f"bouchet-proof {self.node_port} {request.headers.get(NONCE_HEADER)}"
        proof = hmac.new(self.key.encode(), message.encode(), hashlib.sha256).hexdigest()
        return web.Response(headers={PROOF_HEADER: proof})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _metrics(self, request: web.Request) -> web.Response:
        assert self.metrics is not None
        return web.Response(text=self.metrics())

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script, tokens = Script(last_user_text(body), body), count_prompt_tokens(body)
        if (error := self._error(request, body, script, tokens)) is not None:
            return web.json_response({"type": "error", "error": error[1]}, status=error[0])
        if not body.get("stream"):
            await asyncio.sleep(script.wait_s)
            return web.json_response(anthropic_message(body, script, tokens))
        return await self._stream(request, script, anthropic_events(body, script, tokens))

    async def _count_tokens(self, request: web.Request) -> web.Response:
        tokens = count_prompt_tokens(await self._read(request))
        if tokens > self.window:
            return web.json_response({"error": {"message": overflow_message(self.window), "code": 400}}, status=400)
        return web.json_response({"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script, tokens = Script(last_user_text(body), body), count_prompt_tokens(body)
        script.go_on_behind(begun_answer(body))
        if (error := self._error(request, body, script, tokens)) is not None:
            return _openai_error(error)
        if not body.get("stream"):
            await asyncio.sleep(script.wait_s)
            return web.json_response(chat_completion(body, script, tokens))
        return await self._stream(request, script, chat_events(body, script, tokens))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script = Script(str(body.get("prompt")))
        if (error := self._error(request, body, script, 1)) is not None:
            return _openai_error(error)
        if body.get("stream"):
            return await self._stream(request, script, completion_events(body, script))
        return web.json_response(text_completion(body, script.text, "stop"))

    async def _tokenize(self, request: web.Request) -> web.Response:
        """Count a prompt of any length, as vLLM does."""
        body = await request.json()
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        tokens = count_prompt_tokens(body) if "messages" in body else len(str(body["prompt"]).split())
        prompt_end = {"token_strs": ["assistant", "Ċ", "<think>", "Ċ"]} if "thinker" in self.names else {}
        return web.json_response(
            {"count": tokens, "max_model_len": self.window, "tokens": list(range(tokens)), **prompt_end}
        )

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script, tokens = Script(last_input_text(body), body), len(json.dumps(body.get("input")).split())
        limited = {**body, "max_tokens": body.get("max_output_tokens")}
        if (error := self._error(request, limited, script, tokens)) is not None:
            return _openai_error(error)
        if body.get("stream"):
            return await self._stream(request, script, response_events(body, script, tokens))
        await asyncio.sleep(script.wait_s)
        return web.json_response(response_object(body, response_items(script), tokens, len(script.tokens)))

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        given = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": n, "embedding": [0.5, -0.5]} for n, _ in enumerate(given)]
        usage = {"prompt_tokens": len(given), "total_tokens": len(given)}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def _read(self, request: web.Request) -> Body:
        body: Body = await request.json()
        self.requests.append({"path": request.path, "headers": dict(request.headers), "body": body})
        return body

    def _error(self, request: web.Request, body: Body, script: Script, tokens: int) -> Error | None:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"message": "Unauthorized", "type": "UnauthorizedError"}
        if body["model"] not in self.names:
            return 404, {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError"}
        if script.refuse:
            return script.refuse, {"message": f"refused with {script.refuse}", "type": "InternalServerError"}
        limit = body.get("max_tokens") or 16
        if limit > self.window:
            message = f"max_tokens={limit} cannot be greater than max_model_len={self.window}."
            return 400, {"message": message, "type": "BadRequestError"}
        if tokens > self.window:
            return 400, {"message": overflow_message(self.window), "type": "BadRequestError"}
        return None

    async def _stream(self, request: web.Request, script: Script, events: Iterator[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        try:
            await asyncio.sleep(script.head_s)
            await response.prepare(request)
            if self.comment:
                await response.write(self.comment)
            await asyncio.sleep(script.wait_s)
            for count, event in enumerate(events):
                if self.gate is not None:
                    await asyncio.to_thread(self.gate.acquire, timeout=GATE_TIMEOUT_S)
                self.events += 1
                if count == script.die_after:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(self.comment + event.encode())
                await asyncio.sleep(script.first_s if not count else script.pace_s)
            await response.write_eof()
        except ConnectionError:
            self.aborted += 1
            raise
        return response


def _openai_error(error: Error) -> web.Response:
    return web.json_response({"error": {**error[1], "param": None, "code": error[0]}}, status=error[0])


@contextmanager
def serve_vllm(vllm: FakeVLLM, port: int = 0) -> Iterator[FakeVLLM]:
    """Serve the fake on 127.0.0.1; port 0 is any free one. At the end all connections are closed at once."""
    ready, stopping, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(vllm.app(), access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        vllm.port = int(runner.addresses[0][1])
        ready.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="fake vLLM")
    thread.start()
    try:
        assert ready.wait(START_TIMEOUT_S), "the fake vLLM did not start"
        yield vllm
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()
