"""A small real server that speaks as vLLM 0.32 does on the paths the proxy uses. The prompt scripts the answer.

In the last user text: `SAY[text]` answers with it, `THINK[text]` puts it into a think block before, `CALL[name {json}]`
calls a tool (several: parallel calls), `DIE[n]` closes the connection after n events, `SLOW[s]` waits s seconds before
the first, `PACE[s]` after each, `REFUSE[status]` answers with that status. Tokens are words; an event carries a word or
the space before it.
`GET /fake/requests` gives the bodies received, oldest first; `/fake/aborted` how many streams the client left,
`/fake/proofs` how often it was asked for a proof.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER

from tests.fakes.vllm_responses import last_input, response_events, response_items, whole_response

# of so many prompt tokens one was in the prefix cache
CACHED_SHARE = 8
WORDS = "SAY|THINK|CALL|DIE|SLOW|PACE|REFUSE"
COMMAND = re.compile(rf"({WORDS})\[(.*?)\](?=\s|$|{WORDS})", re.DOTALL)

NUMBERS = itertools.count(1)


class FakeVLLM:
    """The server's state. key: the bearer key it asks for; window: in tokens, which are words here.

    node_port: where it listens on its node, as its proofs have it.
    """

    def __init__(self, names: tuple[str, ...], key: str, window: int, node_port: int, embeds: bool = False) -> None:
        self.names, self.key, self.window, self.embeds = names, key, window, embeds
        self.node_port, self.proofs = node_port, 0
        self.requests: list[dict[str, Any]] = []
        self.aborted = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 27)
        app.router.add_get("/health", self.health)
        app.router.add_get("/fake/requests", self.seen)
        app.router.add_get("/fake/aborted", self.seen_aborted)
        app.router.add_get("/fake/count", self.seen_count)
        app.router.add_get("/fake/proofs", self.seen_proofs)
        app.router.add_post("/v1/messages", self.messages)
        app.router.add_post("/v1/messages/count_tokens", self.count)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/responses", self.responses)
        app.router.add_post("/tokenize", self.tokenize)
        if self.embeds:
            app.router.add_post("/v1/embeddings", self.embeddings)
        return app

    async def health(self, request: web.Request) -> web.Response:
        """As the guard before a real one: who asks with a nonce gets a proof."""
        self.proofs += NONCE_HEADER in request.headers
        words = f"bouchet-proof {self.node_port} {request.headers.get(NONCE_HEADER)}"
        proof = hmac.new(self.key.encode(), words.encode(), hashlib.sha256).hexdigest()
        return web.Response(headers={PROOF_HEADER: proof})

    async def seen(self, request: web.Request) -> web.Response:
        return web.json_response(self.requests)

    async def seen_count(self, request: web.Request) -> web.Response:
        return web.json_response(len(self.requests))

    async def seen_proofs(self, request: web.Request) -> web.Response:
        return web.json_response(self.proofs)

    async def seen_aborted(self, request: web.Request) -> web.Response:
        return web.json_response(self.aborted)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await self._taken(request)
        script, tokens = Script(last_text(body)), prompt_tokens(body)
        if (refusal := self._refusal(request, body, script, tokens)) is not None:
            return web.json_response({"type": "error", "error": refusal[1]}, status=refusal[0])
        if not body.get("stream"):
            await asyncio.sleep(script.wait_s)
            return web.json_response(whole_message(body, script, tokens))
        return await self._send(request, script, anthropic_events(body, script, tokens))

    async def count(self, request: web.Request) -> web.Response:
        tokens = prompt_tokens(await self._taken(request))
        if tokens > self.window:
            return web.json_response({"error": {"message": overflow(self.window), "code": 400}}, status=400)
        return web.json_response({"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._taken(request)
        script, tokens = Script(last_text(body)), prompt_tokens(body)
        if (refusal := self._refusal(request, body, script, tokens)) is not None:
            error = {**refusal[1], "param": None, "code": refusal[0]}
            return web.json_response({"error": error}, status=refusal[0])
        if not body.get("stream"):
            await asyncio.sleep(script.wait_s)
            return web.json_response(whole_chat(body, script, tokens))
        return await self._send(request, script, openai_events(body, script, tokens))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._taken(request)
        script = Script(str(body.get("prompt")))
        if (refusal := self._refusal(request, body, script, 1)) is not None:
            error = {**refusal[1], "param": None, "code": refusal[0]}
            return web.json_response({"error": error}, status=refusal[0])
        if body.get("stream"):
            return await self._send(request, script, completion_events(body, script))
        return web.json_response(completion(body, script.text, "stop"))

    async def tokenize(self, request: web.Request) -> web.Response:
        """Counts whatever its length, as vLLM does."""
        body = await request.json()
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "UnauthorizedError"}, status=401)
        tokens = prompt_tokens(body) if "messages" in body else len(str(body["prompt"]).split())
        # as the templates of models that always think end their prompts
        ending = {"token_strs": ["assistant", "Ċ", "<think>", "Ċ"]} if "thinker" in self.names else {}
        return web.json_response(
            {"count": tokens, "max_model_len": self.window, "tokens": list(range(tokens)), **ending}
        )

    async def responses(self, request: web.Request) -> web.StreamResponse:
        body = await self._taken(request)
        script, tokens = Script(last_input(body)), len(json.dumps(body.get("input")).split())
        limit = {**body, "max_tokens": body.get("max_output_tokens")}
        if (refusal := self._refusal(request, limit, script, tokens)) is not None:
            return web.json_response({"error": {**refusal[1], "param": None, "code": refusal[0]}}, status=refusal[0])
        if body.get("stream"):
            events = response_events(body, script.text, pieces(script.text), script.tools, tokens)
            return await self._send(request, script, events)
        items = response_items(script.text, script.tools)
        return web.json_response(whole_response(body, items, tokens, len(pieces(script.text))))

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await self._taken(request)
        given = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": n, "embedding": [0.5, -0.5]} for n, _ in enumerate(given)]
        usage = {"prompt_tokens": len(given), "total_tokens": len(given)}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def _send(self, request: web.Request, script: Script, events: Iterator[str]) -> web.StreamResponse:
        try:
            return await send_events(request, script, events)
        except ConnectionError:
            self.aborted += 1
            raise

    async def _taken(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.requests.append({"path": request.path, "headers": dict(request.headers), "body": body})
        return body

    def _refusal(
        self, request: web.Request, body: dict[str, Any], script: Script, tokens: int
    ) -> tuple[int, dict[str, str]] | None:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"message": "UnauthorizedError", "type": "UnauthorizedError"}
        if body["model"] not in self.names:
            return 404, {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError"}
        if script.refuse:
            return script.refuse, {"message": f"refused with {script.refuse}", "type": "InternalServerError"}
        limit = body.get("max_tokens") or 16
        if limit > self.window:
            message = f"max_tokens={limit} cannot be greater than max_model_len={self.window}."
            return 400, {"message": message, "type": "BadRequestError"}
        if tokens > self.window:
            return 400, {"message": overflow(self.window), "type": "BadRequestError"}
        return None


class Script:
    """What the prompt asks this server to do."""

    def __init__(self, text: str) -> None:
        commands = COMMAND.findall(text)
        found = dict(commands)
        self.say = found.get("SAY", "ok" if "CALL" not in found else "")
        self.think = found.get("THINK")
        self.calls = [arguments for name, arguments in commands if name == "CALL"]
        self.die_after = int(found["DIE"]) if "DIE" in found else None
        self.wait_s = float(found.get("SLOW", 0))
        self.pace_s = float(found.get("PACE", 0))
        self.refuse = int(found.get("REFUSE", 0))

    @property
    def text(self) -> str:
        return f"<think>{self.think}</think>{self.say}" if self.think is not None else self.say

    @property
    def tools(self) -> list[tuple[str, dict[str, Any]]]:
        parted = (call.partition(" ") for call in self.calls)
        return [(name, json.loads(arguments or "{}")) for name, _, arguments in parted]


def overflow(window: int) -> str:
    return (
        f"This model's maximum context length is {window} tokens. However, your prompt contains at least {window + 1} "
        "input tokens, which exceeds this limit even without any output tokens. "
        "Please reduce the length of the input prompt."
    )


def prompt_tokens(body: dict[str, Any]) -> int:
    parts = [body.get("system"), *(message.get("content") for message in body.get("messages", []))]
    return sum(len(json.dumps(part).split()) for part in parts if part)


def last_text(body: dict[str, Any]) -> str:
    for message in reversed(body.get("messages", [])):
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            return content
        if message.get("role") == "user" and isinstance(content, list):
            return " ".join(block.get("text") or "" for block in content if isinstance(block, dict))
    return ""


def new_id(kind: str) -> str:
    """Unlike all before: Claude Code takes messages of one id for one message."""
    return f"chatcmpl-{kind}-{next(NUMBERS)}"


def pieces(text: str) -> list[str]:
    return re.findall(r"\S+|\s+", text)


def whole_message(body: dict[str, Any], script: Script, tokens: int) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": script.text}] if script.text else []
    for name, arguments in script.tools:
        content.append({"type": "tool_use", "id": new_id("tool"), "name": name, "input": arguments})
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": body["model"],
        "stop_reason": "tool_use" if script.tools else "end_turn",
        "usage": anthropic_usage(tokens, len(pieces(script.text))),
    }


def anthropic_events(body: dict[str, Any], script: Script, tokens: int) -> Iterator[str]:
    def event(name: str, **data: Any) -> str:
        return f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n"

    start = {"id": new_id("msg"), "type": "message", "role": "assistant", "content": [], "model": body["model"]}
    usage = {"input_tokens": tokens, "output_tokens": 0}
    yield event("message_start", message={**start, "stop_reason": None, "stop_sequence": None, "usage": usage})
    first = 0
    if script.text:
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for piece in pieces(script.text):
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        yield event("content_block_stop", index=0)
        first = 1
    for index, (name, arguments) in enumerate(script.tools, first):
        block = {"type": "tool_use", "id": new_id("tool"), "name": name, "input": {}}
        yield event("content_block_start", index=index, content_block=block)
        for piece in pieces(json.dumps(arguments)):
            delta = {"type": "input_json_delta", "partial_json": piece}
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    stop = {"stop_reason": "tool_use" if script.tools else "end_turn", "stop_sequence": None}
    usage = anthropic_usage(tokens, len(pieces(script.text)))
    yield event("message_delta", delta=stop, usage=usage)
    yield event("message_stop")


def whole_chat(body: dict[str, Any], script: Script, tokens: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": script.text or None, "tool_calls": []}
    for name, arguments in script.tools:
        function = {"name": name, "arguments": json.dumps(arguments)}
        message["tool_calls"].append({"id": new_id("tool"), "type": "function", "function": function})
    count = len(pieces(script.text))
    return {
        "id": new_id("chat"),
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if script.tools else "stop"}],
        "usage": openai_usage(tokens, count),
    }


def openai_usage(tokens: int, count: int) -> dict[str, Any]:
    cached = tokens // CACHED_SHARE
    totals = {"prompt_tokens": tokens, "completion_tokens": count, "total_tokens": tokens + count}
    return {**totals, "prompt_tokens_details": {"cached_tokens": cached}}


def anthropic_usage(tokens: int, count: int) -> dict[str, Any]:
    """As vLLM's: cached tokens are not among the input's."""
    cached = tokens // CACHED_SHARE
    return {"input_tokens": tokens - cached, "cache_read_input_tokens": cached, "output_tokens": count}


def openai_events(body: dict[str, Any], script: Script, tokens: int) -> Iterator[str]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({**head, 'choices': [choice]}, separators=(',', ':'))}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(script.text):
        yield chunk({"content": piece})
    yield chunk({}, "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = openai_usage(tokens, len(pieces(script.text)))
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage}, separators=(',', ':'))}\n\n"
    yield "data: [DONE]\n\n"


def completion(body: dict[str, Any], text: str, finish: str | None) -> dict[str, Any]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}], "usage": usage}


def completion_events(body: dict[str, Any], script: Script) -> Iterator[str]:
    for piece in pieces(script.text):
        yield f"data: {json.dumps({**completion(body, piece, None), 'usage': None})}\n\n"
    yield f"data: {json.dumps({**completion(body, '', 'stop'), 'usage': None})}\n\n"
    yield "data: [DONE]\n\n"


async def send_events(request: web.Request, script: Script, events: Iterator[str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    await asyncio.sleep(script.wait_s)
    for count, event in enumerate(events):
        if count == script.die_after:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(event.encode())
        await asyncio.sleep(script.pace_s)
    await response.write_eof()
    return response


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--name", action="append", required=True)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--node-port", type=int, default=0, help="the port that it proves to listen on")
    parser.add_argument("--embeds", action="store_true", help="serve /v1/embeddings, as an embedding model does")
    given = parser.parse_args()
    fake = FakeVLLM(tuple(given.name), given.key, given.window, given.node_port, given.embeds)
    web.run_app(fake.app(), host="127.0.0.1", port=given.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
