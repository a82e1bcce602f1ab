"""Requests that go on behind an answer whose server has ended: the chat that vLLM continues, and what may be. Pure.

vLLM continues an assistant's message on its chat endpoint alone (`continue_final_message`), so a request in Anthropic's
dialect becomes the chat that vLLM itself would make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .endpoints import Endpoint
from .tokenize import tokenize_bodies
from .tokens import LIMIT_FIELDS, Body, TokenCounts

# how often one answer may be continued
MOST_CONTINUATIONS = 3
# what a continued answer would begin again: a grammar, or numbers of each token
_UNREPEATABLE = ("response_format", "structured_outputs", "logprobs", "prompt_logprobs", "echo", "return_token_ids")
_SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True)
class PartialAnswer:
    """What the client has of an answer: text alone, no tool call and no thinking.

    index: of its last block, and is_open: whether that has no end yet (Anthropic). head: id and time of its chunks
    (OpenAI). tokens: those of the servers that worked on it; their output is what the client has.
    """

    text: str
    model: str
    tokens: TokenCounts = field(default_factory=TokenCounts)
    index: int = 0
    is_open: bool = True
    head: Mapping[str, Any] | None = None

    @property
    def sent(self) -> str:
        """The text that the next server is sent, without white space at its end, which chat templates cut."""
        return self.text.rstrip()

    @property
    def repeated(self) -> str:
        """The white space that the next server is likely to begin with, and the client has."""
        return self.text[len(self.sent) :]


def may_continue(endpoint: Endpoint, body: Body) -> bool:
    """Return whether the answer to this request can be continued, as long as it is plain text. body: the client's."""
    if endpoint is Endpoint.MESSAGES:
        choice, config = body.get("tool_choice"), body.get("output_config")
        kind = choice.get("type") if isinstance(choice, dict) else None
        has_format = bool(body.get("output_format")) or (isinstance(config, dict) and bool(config.get("format")))
        return body.get("stream") is True and kind not in ("any", "tool") and not has_format and not _has_images(body)
    if endpoint is not Endpoint.CHAT or body.get("stream") is not True or body.get("n") not in (None, 1):
        return False
    last = body["messages"][-1]
    is_plain = body.get("tool_choice") in (None, "auto", "none") and not any(body.get(key) for key in _UNREPEATABLE)
    return is_plain and isinstance(last, dict) and last.get("role") != "assistant"


def continuation_body(endpoint: Endpoint, body: Body, partial: PartialAnswer) -> Body:
    """Return the chat that goes on behind the partial answer. body: the request as it was prepared for vLLM."""
    chat = _as_chat(body) if endpoint is Endpoint.MESSAGES else dict(body)
    for name in LIMIT_FIELDS:
        if isinstance(chat.get(name), int):
            chat[name] = max(1, chat[name] - partial.tokens.output)
    if not partial.sent:
        return chat
    messages = [*chat["messages"], {"role": "assistant", "content": partial.sent}]
    return {**chat, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def _as_chat(body: Body) -> Body:
    """Return a prepared Anthropic body as the chat that vLLM makes of it."""
    # the last one has its system messages at the beginning, in one message, as vLLM puts them there
    *_, chat = tokenize_bodies(Endpoint.MESSAGES, body)
    choice, config = body.get("tool_choice"), body.get("output_config")
    kind = choice.get("type") if isinstance(choice, dict) else "auto"
    fields: Body = {
        **chat,
        **{name: body[name] for name in (*_SAMPLING, "cache_salt") if name in body},
        "max_tokens": body.get("max_tokens"),
        "stop": body.get("stop_sequences"),
        "reasoning_effort": config.get("effort") if isinstance(config, dict) else None,
        "tool_choice": ("none" if kind == "none" else "auto") if chat.get("tools") else None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {key: value for key, value in fields.items() if value is not None}


def _has_images(body: Body) -> bool:
    """Return whether the conversation has pictures, which are not converted to a chat."""
    return any(
        isinstance(block, dict) and (block.get("type") == "image" or _has_image(block.get("content")))
        for message in body.get("messages") or ()
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for block in message["content"]
    )


def _has_image(content: object) -> bool:
    return isinstance(content, list) and any(isinstance(part, dict) and part.get("type") == "image" for part in content)
