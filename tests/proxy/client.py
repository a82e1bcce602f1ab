"""Requests to a proxy under test, and what their responses contain."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from bouchet_proxy.streams.sse import Event, parse_stream

from tests.proxy.environment import ALIAS, KEY, RunningProxy
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for

MESSAGES, CHAT, COUNT = "/v1/messages", "/v1/chat/completions", "/v1/messages/count_tokens"
COMPLETIONS, RESPONSES, EMBEDDINGS = "/v1/completions", "/v1/responses", "/v1/embeddings"
# one client for all: building one loads certificates, which takes longer than a request
HTTP = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
OWNER = {"x-api-key": KEY}
# names that no response may reveal
INTERNAL_NAMES = ("litellm", "slot-0", "hosted_vllm", "aiohttp", "Traceback")
KEEP_ALIVE = re.compile(
    rb"event: ping\ndata: [^\n]*\n\n|: ping\n\n"
    rb'|event: content_block_delta\ndata: [^\n]*"(?:text|thinking|partial_json)":""}}\n\n'
)


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    """Return a body that /v1/messages and /v1/chat/completions accept."""
    return {"model": ALIAS, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def post(proxy: RunningProxy, path: str, body: object, **headers: str) -> httpx.Response:
    """Send one request with the owner's key and read its response, which reveals no internals; a stream is legal."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {**OWNER, "content-type": "application/json", **headers}
    response = HTTP.post(proxy.url + path, content=data, headers=sent)
    for name in INTERNAL_NAMES:
        assert name.lower() not in response.text.lower(), response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        check_stream(path, response.content)
    return response


def get(proxy: RunningProxy, path: str, **headers: str) -> httpx.Response:
    """Send one GET request with the owner's key."""
    return HTTP.get(proxy.url + path, headers={**OWNER, **headers})


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object of a response."""
    error: dict[str, Any] = response.json()["error"]
    return error


def wait_for_status(proxy: RunningProxy, status: int, model: str = ALIAS) -> None:
    """Wait until the routing table has followed the records, so that count_tokens for the model answers this status."""
    wait_for(lambda: post(proxy, COUNT, chat_body("x", model=model)).status_code == status)


def anthropic_events(response: httpx.Response) -> list[Event]:
    """Return the events of a legal Anthropic stream, complete or ended by an error."""
    assert response.headers["content-type"].startswith("text/event-stream")
    return check_stream(MESSAGES, response.content)


def anthropic_text(events: list[Event]) -> str:
    """Return the text in an Anthropic stream."""
    deltas = [event.json()["delta"] for event in events if event.name == "content_block_delta"]
    return "".join(delta.get("text", "") for delta in deltas)


def chat_chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the objects of an OpenAI stream, which must end with [DONE]."""
    *chunks, last = [event for event in parse_stream([response.content]) if event.data]
    assert last.data == b"[DONE]"
    return [event.json() for event in chunks]


def chat_text(chunks: list[dict[str, Any]]) -> str:
    """Return the text in an OpenAI chat stream."""
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def metrics_text(proxy: RunningProxy) -> str:
    """Return the response of /metrics."""
    return get(proxy, "/metrics").text


def without_pings(answer: bytes) -> bytes:
    """Return a stream without what a client gets that waits: pings, comments and empty deltas."""
    return KEEP_ALIVE.sub(b"", answer)
