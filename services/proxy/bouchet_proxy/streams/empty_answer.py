"""Answers without a token, for requests with a limit of 0: they fill the prefix cache and count the prompt. Pure.

vLLM generates one token at least. It is asked for one, without a stream, and its answer is emptied here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.dialects.tokens import LIMIT_FIELDS, Body

from .error_events import DONE
from .sse import render

ENDPOINTS = (Endpoint.MESSAGES, Endpoint.CHAT, Endpoint.COMPLETIONS)


def wants_nothing(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Return whether a request asks for an answer without a token. vLLM itself echoes a prompt without generating."""
    has_zero = any(body.get(name) == 0 and body.get(name) is not False for name in LIMIT_FIELDS)
    return has_zero and endpoint in ENDPOINTS and not (endpoint is Endpoint.COMPLETIONS and body.get("echo") is True)


def ask_for_one(body: Body) -> Body:
    """Return the request that vLLM answers with one token, whole."""
    kept = {key: value for key, value in body.items() if key not in ("stream", "stream_options", "min_tokens")}
    return {**kept, **{name: 1 for name in LIMIT_FIELDS if kept.get(name) == 0}}


def empty_answer(endpoint: Endpoint, response: Body) -> Body:
    """Return an answer without what was generated."""
    if endpoint is Endpoint.MESSAGES:
        usage = {**(response.get("usage") or {}), "output_tokens": 0}
        return {**response, "content": [], "stop_reason": "max_tokens", "stop_sequence": None, "usage": usage}
    usage = dict(response.get("usage") or {})
    if "completion_tokens" in usage:
        usage |= {"completion_tokens": 0, "total_tokens": usage.get("prompt_tokens", 0)}
    choices = [_empty_choice(endpoint, choice) for choice in response.get("choices") or () if isinstance(choice, dict)]
    return {**response, "choices": choices, "usage": usage}


def _empty_choice(endpoint: Endpoint, choice: Body) -> Body:
    kept = {**choice, "finish_reason": "length", "stop_reason": None}
    if choice.get("logprobs") is not None:
        kept["logprobs"] = None
    if endpoint is Endpoint.COMPLETIONS:
        return {**kept, "text": ""}
    message = choice.get("message")
    emptied = {**(message if isinstance(message, dict) else {}), "content": "", "tool_calls": []}
    return {**kept, "message": {**emptied, "reasoning": None} if "reasoning" in emptied else emptied}


def as_events(endpoint: Endpoint, response: Body, with_usage: bool) -> bytes:
    """Return an empty answer as the whole stream of its dialect. with_usage: a chat's client asked for the counts."""
    if endpoint is Endpoint.MESSAGES:
        return _anthropic_events(response)
    choices = [_stream_choice(endpoint, choice) for choice in response.get("choices") or ()]
    kind = "chat.completion.chunk" if endpoint is Endpoint.CHAT else response.get("object")
    head = {key: value for key, value in response.items() if key not in ("choices", "usage")} | {"object": kind}
    events = [render("", {**head, "choices": [choice]}) for choice in choices]
    if with_usage:
        events.append(render("", {**head, "choices": [], "usage": response.get("usage")}))
    return b"".join([*events, DONE])


def _stream_choice(endpoint: Endpoint, choice: Body) -> Body:
    if endpoint is Endpoint.COMPLETIONS:
        return choice
    kept = {key: value for key, value in choice.items() if key != "message"}
    return {**kept, "delta": {"role": "assistant", "content": ""}}


def _anthropic_events(response: Body) -> bytes:
    usage = response["usage"]
    start = {**response, "stop_reason": None}
    stop = {"stop_reason": "max_tokens", "stop_sequence": None}
    return b"".join(
        (
            render("message_start", {"type": "message_start", "message": start}),
            render("message_delta", {"type": "message_delta", "delta": stop, "usage": usage}),
            render("message_stop", {"type": "message_stop"}),
        )
    )
