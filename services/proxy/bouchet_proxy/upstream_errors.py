"""Error responses of vLLM and LiteLLM: the message in them, and the ProxyError that the client gets instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from .dialects.endpoints import Endpoint
from .errors import OVERLOADED, ProxyError, answer_overflow, context_overflow, stream_interrupted, unreachable
from .upstream_messages import INVALID_ANSWER, plain_message

NO_MESSAGE = "the model's server returned an error without a message"
MAX_PLAIN_TEXT = MAX_MESSAGE_CHARS = 2000
# of errors within errors; an error may quote a request
MAX_LEVELS = 20

# how servers say that a prompt is too long: vLLM 0.32 (renderers/params.py), then OpenAI and gateways, llama.cpp,
# SGLang, TGI
_TOKENS_OVER = tuple(
    re.compile(pattern, re.S)
    for pattern in (
        r"maximum context length is (?P<window>\d+) tokens.*?contains (?:at least )?(?P<prompt>\d+) input tokens",
        r"maximum context length is (?P<window>\d+) tokens.{0,80}? resulted in (?P<prompt>\d+) tokens",
        r"request \((?P<prompt>\d+) tokens\) exceeds the available context size \((?P<window>\d+) tokens\)",
        r'"n_prompt_tokens":\s*(?P<prompt>\d+),\s*"n_ctx":\s*(?P<window>\d+)',
        r"input \((?P<prompt>\d+) tokens\) is longer than the model's context length \((?P<window>\d+) tokens\)",
        r"must have less than (?P<window>\d+) tokens\. Given: (?P<prompt>\d+)",
    )
)
# ... and that prompt and answer together are; vLLM shortens the answer instead
_SUM_OVER = tuple(
    re.compile(pattern, re.S)
    for pattern in (
        r"maximum context length of (?P<window>\d+) tokens.{0,80}?: (?P<prompt>\d+) tokens from the input messages "
        r"and (?P<answer>\d+) tokens for the completion",
        r"maximum context length is (?P<window>\d+) tokens.{0,80}?\((?P<prompt>\d+) in the messages, "
        r"(?P<answer>\d+) in the completion",
        r"must be <= (?P<window>\d+)\. Given: (?P<prompt>\d+) `inputs` tokens and (?P<answer>\d+) `max_new_tokens`",
    )
)
_CHARS_OVER = re.compile(r"maximum context length is (\d+) tokens.*?contains (\d+) characters", re.S)
# LiteLLM puts its own and its adapter's exception names before the server's message
_PREFIX = re.compile(
    r"^\s*(?:Invalid request format:\s*(?=litellm))?(?:litellm\.)?(?:\w+(?:Error|Exception)\s*[:-]\s*)+", re.I
)
# ... and what it tried, how often, after it
_SUFFIX = re.compile(r"Received Model Group=|Available Model Group Fallbacks=|LiteLLM\b")
# how the HTTP libraries report that the server went away in the middle of a response
_INTERRUPTED = re.compile(r"payload is not completed|TransferEncodingError|disconnected|peer closed", re.IGNORECASE)
# error kinds of the gateway, also quoted within the message of a library
_GATEWAY_KINDS = re.compile(
    rb'kind\\*":\s*\\*"(?:tunnel_down|human_needed|no_target|cluster_unavailable|gateway_unreachable|'
    rb"remote_refused|node_refused)"
)
# of a path that a server does not have
_ABSENT = frozenset((404, 405, 501))
_NO_COUNT = "it does not count tokens before a request; the `usage` of each answer has the prompt's"
_INSTEAD = {
    Endpoint.COUNT_TOKENS: _NO_COUNT,
    Endpoint.INPUT_TOKENS: _NO_COUNT,
    Endpoint.COUNT_CONTENT: _NO_COUNT,
    Endpoint.CHAT: "send the conversation to /v1/messages",
    Endpoint.MESSAGES: "send the conversation to /v1/chat/completions",
    Endpoint.COMPLETIONS: "send the prompt as a message to /v1/chat/completions",
    Endpoint.RESPONSES: (
        "use a client of /v1/chat/completions or /v1/messages with this model, or another model (`bouchet status`)"
    ),
}
# a low estimate, for overflows that vLLM rejects before it has counted the tokens
_CHARS_PER_TOKEN = 4


def error_from_upstream(
    status: int, body: bytes, alias: str, endpoint: Endpoint | None = None, *, attached: bool = False
) -> ProxyError:
    """Return the error for what vLLM answered, directly or through LiteLLM. status: its HTTP status.

    attached: the server runs without a job of ours.
    """
    message = error_message(body)
    if (overflow := _find_overflow(message, body)) is not None:
        return overflow
    if _GATEWAY_KINDS.search(body):
        return replace(unreachable(alias), message=f"{alias} cannot be reached: {message}")
    if endpoint is not None and (problem := _endpoint_problem(status, message, alias, endpoint)):
        return problem
    if status >= 500 and _INTERRUPTED.search(message):
        return stream_interrupted(alias)
    if status in (401, 403) and attached:
        text = f"the attached server of {alias} refuses its key; `bouchet cancel {alias}` and attach it again"
        return ProxyError(502, text, "server_key_refused")
    if status in (401, 403):
        text = f"{alias}'s vLLM server rejected the proxy's key; cancel it with `bouchet cancel` and launch it again"
        return ProxyError(502, text)
    if status in (429, 503, OVERLOADED):
        return replace(unreachable(alias), message=f"{alias} is overloaded: {message}", code="overloaded")
    plain = plain_message(message)
    if plain is None:
        return ProxyError(status if status >= 400 else 502, message)
    if plain.is_answer:
        return ProxyError(max(status, 502), plain.message, INVALID_ANSWER)
    return ProxyError(status if status >= 400 else 502, plain.message, param=plain.param or None)


def _endpoint_problem(status: int, message: str, alias: str, endpoint: Endpoint) -> ProxyError | None:
    """Return the error for a server that does not have this path; None where it refuses something else.

    A server that does not know its model any more says so.
    """
    if status == 404 and endpoint is Endpoint.EMBEDDINGS:
        text = f"{alias} does not support embeddings: it was not launched with an embedding model"
        return ProxyError(400, text, "no_embeddings")
    if status not in _ABSENT or (message != NO_MESSAGE and "model" in message.lower()):
        return None
    path = str(endpoint) if endpoint is not Endpoint.COUNT_CONTENT else "countTokens"
    text = f"the server of {alias} has no {path}: {_INSTEAD.get(endpoint, 'use another model (`bouchet status`)')}"
    return ProxyError(400, text, "endpoint_unsupported")


def _first(patterns: Iterable[re.Pattern[str]], text: str) -> re.Match[str] | None:
    return next(filter(None, (pattern.search(text) for pattern in patterns)), None)


def _find_overflow(message: str, body: bytes) -> ProxyError | None:
    """Return the error if this is a server's message about a prompt that is too long, alone or with its answer."""
    fields = body[:MAX_MESSAGE_CHARS].decode("utf-8", "replace") if b'"n_ctx"' in body else ""
    if found := _first(_TOKENS_OVER, message) or _first(_TOKENS_OVER, fields):
        return context_overflow(int(found["prompt"]), int(found["window"]))
    if found := _first(_SUM_OVER, message):
        prompt, answer, window = (int(found[name]) for name in ("prompt", "answer", "window"))
        return context_overflow(prompt, window) if prompt >= window else answer_overflow(prompt, answer, window)
    if found := _CHARS_OVER.search(message):
        return context_overflow(int(found[2]) // _CHARS_PER_TOKEN, int(found[1]))
    return None


def error_message(body: bytes) -> str:
    """Return the message in an error body of any of the shapes that servers and libraries use."""
    try:
        text = _find_message(orjson.loads(body))
    except orjson.JSONDecodeError:
        text = body[:MAX_PLAIN_TEXT].decode("utf-8", "replace").strip()
    text = _unwrap(_cut_suffix(_PREFIX.sub("", text or "")))
    # vLLM quotes the request in some messages, at any length
    return text[:MAX_MESSAGE_CHARS] or NO_MESSAGE


def _cut_suffix(text: str) -> str:
    """Return the text before what LiteLLM adds; in linear time, whatever a client made a server quote."""
    found = _SUFFIX.search(text)
    return text[: found.start()].rstrip().removesuffix(".") if found else text


def _unwrap(text: str) -> str:
    """Return the message of a JSON error quoted inside a sentence; the text itself if there is none."""
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        try:
            inner = _find_message(orjson.loads(text[start : end + 1]))
        except orjson.JSONDecodeError:
            inner = ""
        text = inner or text
    return _PREFIX.sub("", text).strip()


def _find_message(value: Any, levels: int = MAX_LEVELS) -> str:
    """Return `message` or `detail`, some levels deep under `error`."""
    if not levels:
        return ""
    if isinstance(value, dict):
        for key in ("error", "message", "detail"):
            if value.get(key):
                return _find_message(value[key], levels - 1)
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_find_message(item, levels - 1) or str(item) for item in value)))
    return str(value) if value is not None else ""
