"""Conversations as bodies for vLLM's `/tokenize`, which counts prompts of any length. Pure.

vLLM's own `count_tokens` rejects a prompt above the context window, with a message that has only a lower bound.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .endpoints import Endpoint
from .tokens import Body


def tokenize_bodies(endpoint: Endpoint, body: Body) -> Iterator[Body]:
    """Yield the bodies to try, best first: some chat templates accept a system message only at the beginning."""
    if endpoint is Endpoint.COMPLETIONS:
        if isinstance(body.get("prompt"), str):
            yield {"prompt": body["prompt"]}
        return
    if endpoint is Endpoint.RESPONSES:
        chat = {"messages": _from_responses(body), "tools": [_responses_tool(tool) for tool in body.get("tools") or ()]}
    elif endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS):
        chat = {"messages": _from_anthropic(body), "tools": [_anthropic_tool(tool) for tool in body.get("tools") or ()]}
    elif endpoint is Endpoint.CHAT:
        chat = {"messages": body["messages"], "tools": body.get("tools") or []}
    else:
        return
    first = {key: value for key, value in {**chat, "chat_template_kwargs": _template_kwargs(body)}.items() if value}
    yield first
    messages = [message for message in chat["messages"] if isinstance(message, dict)]
    if any(message.get("role") == "system" for message in messages[1:]):
        yield {**first, "messages": _system_first(messages)}


def prompt_end_body(body: Body) -> Body:
    """Return the body that reveals how any prompt ends that is rendered with the template arguments of this one."""
    probe = {"messages": [{"role": "user", "content": "x"}], "return_token_strs": True, "add_generation_prompt": True}
    return {**probe, "chat_template_kwargs": _template_kwargs(body)}


def ends_in_think_block(token_strs: Sequence[str]) -> bool:
    """Return whether these tokens end with an open think block; byte-level vocabularies have own white space."""
    return "".join(token_strs[-8:]).rstrip("\n ĊĠ▁").endswith("<think>")


def _template_kwargs(body: Body) -> dict[str, Any]:
    """Return the arguments that vLLM passes to the chat template for this request's thinking fields."""
    given = body.get("chat_template_kwargs")
    kwargs: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    thinking, config = body.get("thinking"), body.get("output_config")
    if isinstance(thinking, dict) and thinking.get("type") == "disabled":
        kwargs |= {"enable_thinking": False, "reasoning_effort": "none"}
    elif isinstance(config, dict) and config.get("effort"):
        kwargs |= {"enable_thinking": True, "reasoning_effort": config["effort"]}
    elif effort := body.get("reasoning_effort") or _responses_effort(body):
        kwargs |= {"enable_thinking": effort != "none", "reasoning_effort": effort}
    return kwargs


def _responses_effort(body: Body) -> Any:
    reasoning = body.get("reasoning")
    return reasoning.get("effort") if isinstance(reasoning, dict) else None


def _from_anthropic(body: Body) -> list[Any]:
    system = _join_text(body.get("system"))
    chat: list[Any] = [{"role": "system", "content": system}] if system else []
    for message in body.get("messages") or ():
        chat += _chat_messages(message) if isinstance(message, dict) else []
    return chat


def _chat_messages(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chat messages that vLLM makes of one Anthropic message: tool results come before the rest."""
    role, content = message.get("role"), message.get("content")
    if role == "system":
        if text := _join_text(content):
            yield {"role": "system", "content": text}
        return
    if not isinstance(content, list):
        yield {"role": role, "content": content or ""}
        return
    blocks = [block for block in content if isinstance(block, dict)]
    yield from _tool_results(blocks)
    if fields := _assistant_fields(blocks):
        yield {"role": role, **fields}


def _tool_results(blocks: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        if block.get("type") == "tool_result":
            text = _join_text(block.get("content"), "\n")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": text}


def _assistant_fields(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    texts = [block["text"] for block in blocks if block.get("type") == "text" and block.get("text")]
    if len(texts) > 1:
        fields["content"] = [{"type": "text", "text": text} for text in texts]
    elif texts:
        fields["content"] = texts[0]
    if thoughts := "".join(str(b.get("thinking") or "") for b in blocks if b.get("type") == "thinking"):
        fields["reasoning"] = thoughts
    if calls := [_tool_call(b.get("id"), b.get("name"), b.get("input")) for b in blocks if b.get("type") == "tool_use"]:
        fields["tool_calls"] = calls
    return fields


def _tool_call(call_id: object, name: object, given: object) -> dict[str, Any]:
    # serialized as vLLM does, with its spaces and escapes, because they are tokens
    arguments = given if isinstance(given, str) else json.dumps(given or {})
    return {"id": call_id or "", "type": "function", "function": {"name": name or "", "arguments": arguments}}


def _anthropic_tool(tool: Any) -> dict[str, Any]:
    given = tool if isinstance(tool, dict) else {}
    fields = {
        "name": given.get("name"),
        "description": given.get("description"),
        "parameters": given.get("input_schema"),
    }
    return {"type": "function", "function": {key: value for key, value in fields.items() if value is not None}}


def _responses_tool(tool: Any) -> dict[str, Any]:
    given = tool if isinstance(tool, dict) else {}
    return {"type": "function", "function": {k: v for k, v in given.items() if k != "type" and v is not None}}


def _from_responses(body: Body) -> list[Any]:
    """Convert the items of a `responses` request; an approximation, because vLLM's conversion depends on the model."""
    chat: list[Any] = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    items = body.get("input")
    if isinstance(items, str):
        return [*chat, {"role": "user", "content": items}]
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            _add_item(chat, item)
    return chat


def _add_item(chat: list[Any], item: Mapping[str, Any]) -> None:
    """Add an item to a chat: reasoning, words and calls of one turn are one message of the assistant, as in vLLM."""
    kind = item.get("type")
    if kind == "function_call":
        call = _tool_call(item.get("call_id"), item.get("name"), item.get("arguments") or "{}")
        if chat and chat[-1]["role"] == "assistant":
            chat[-1].setdefault("tool_calls", []).append(call)
        else:
            chat.append({"role": "assistant", "tool_calls": [call]})
    elif kind == "reasoning":
        _add_to_turn(chat, "reasoning", _join_text(item.get("content"), "\n"))
    elif kind == "function_call_output":
        text = _join_text(item.get("output"), "\n")
        chat.append({"role": "tool", "tool_call_id": item.get("call_id") or "", "content": text})
    elif item.get("role") == "assistant":
        _add_to_turn(chat, "content", _join_text(item.get("content")))
    elif "role" in item:
        chat.append({"role": item["role"], "content": _text_content(item.get("content"))})


def _add_to_turn(chat: list[Any], name: str, text: str) -> None:
    """Add a field to the assistant's message at the end, where it has none of that name yet; else a message."""
    last = chat[-1] if chat and chat[-1]["role"] == "assistant" else None
    if last is None or name in last:
        chat.append({"role": "assistant", name: text})
    else:
        last[name] = text


def _text_content(content: object) -> Any:
    """Return the text of a content, or its parts where it has several: the chat template joins those."""
    texts = (
        [part["text"] for part in content if isinstance(part, dict) and part.get("text")]
        if isinstance(content, list)
        else []
    )
    return [{"type": "text", "text": text} for text in texts] if len(texts) > 1 else _join_text(content)


def _join_text(content: object, by: str = "") -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return by.join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))


def _system_first(messages: list[Any]) -> list[Any]:
    system = [m for m in messages if m.get("role") == "system"]
    text = "".join(str(m.get("content") or "") for m in system)
    return [{"role": "system", "content": text}, *(m for m in messages if m.get("role") != "system")]
