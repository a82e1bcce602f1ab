"""A conversation as vLLM's `/tokenize` takes it: that path counts prompts of any length. Pure.

vLLM's own `count_tokens` refuses a prompt above the window, and its complaint about one says only "at least".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .endpoints import Endpoint
from .token_limits import Body


def count_bodies(endpoint: Endpoint, body: Body) -> Iterator[Body]:
    """What to ask, best first: some templates take a system message only at the beginning."""
    if endpoint is Endpoint.COMPLETIONS:
        if isinstance(body.get("prompt"), str):
            yield {"prompt": body["prompt"]}
        return
    if endpoint is Endpoint.RESPONSES:
        chat = {"messages": _from_responses(body), "tools": [_wrapped(tool) for tool in body.get("tools") or ()]}
    elif endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS):
        chat = {"messages": _from_anthropic(body), "tools": [_function(tool) for tool in body.get("tools") or ()]}
    elif endpoint is Endpoint.CHAT:
        chat = {"messages": body["messages"], "tools": body.get("tools") or []}
    else:
        return
    known = {key: value for key, value in {**chat, "chat_template_kwargs": _switches(body)}.items() if value}
    yield known
    messages = [message for message in chat["messages"] if isinstance(message, dict)]
    if any(message.get("role") == "system" for message in messages[1:]):
        yield {**known, "messages": _system_first(messages)}


def ending_body(body: Body) -> Body:
    """What to ask for the end of any prompt that is rendered with the switches of this one."""
    asked = {"messages": [{"role": "user", "content": "x"}], "return_token_strs": True, "add_generation_prompt": True}
    return {**asked, "chat_template_kwargs": _switches(body)}


def ends_inside(token_strs: Sequence[str]) -> bool:
    """Whether these tokens end with an open think block; byte-level vocabularies spell white space their own way."""
    return "".join(token_strs[-8:]).rstrip("\n ĊĠ▁").endswith("<think>")


def _switches(body: Body) -> dict[str, Any]:
    """What vLLM tells the template of a request's wish to think."""
    said = body.get("chat_template_kwargs")
    switches: dict[str, Any] = dict(said) if isinstance(said, dict) else {}
    thinking, config = body.get("thinking"), body.get("output_config")
    if isinstance(thinking, dict) and thinking.get("type") == "disabled":
        switches |= {"enable_thinking": False, "reasoning_effort": "none"}
    elif isinstance(config, dict) and config.get("effort"):
        switches |= {"enable_thinking": True, "reasoning_effort": config["effort"]}
    elif body.get("reasoning_effort"):
        effort = body["reasoning_effort"]
        switches |= {"enable_thinking": effort != "none", "reasoning_effort": effort}
    return switches


def _from_anthropic(body: Body) -> list[Any]:
    system = _joined(body.get("system"))
    chat: list[Any] = [{"role": "system", "content": system}] if system else []
    for message in body.get("messages") or ():
        chat += _turn(message) if isinstance(message, dict) else []
    return chat


def _turn(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One message of Anthropic's as the messages that vLLM makes of it: results of tools stand before the rest."""
    role, content = message.get("role"), message.get("content")
    if role == "system":
        if text := _joined(content):
            yield {"role": "system", "content": text}
        return
    if not isinstance(content, list):
        yield {"role": role, "content": content or ""}
        return
    blocks = [block for block in content if isinstance(block, dict)]
    yield from _results(blocks)
    if made := _spoken(blocks):
        yield {"role": role, **made}


def _results(blocks: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        if block.get("type") == "tool_result":
            text = _joined(block.get("content"), "\n")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": text}


def _spoken(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    texts = [block["text"] for block in blocks if block.get("type") == "text" and block.get("text")]
    if len(texts) > 1:
        made["content"] = [{"type": "text", "text": text} for text in texts]
    elif texts:
        made["content"] = texts[0]
    if thoughts := "".join(str(b.get("thinking") or "") for b in blocks if b.get("type") == "thinking"):
        made["reasoning"] = thoughts
    if calls := [_call(b.get("id"), b.get("name"), b.get("input")) for b in blocks if b.get("type") == "tool_use"]:
        made["tool_calls"] = calls
    return made


def _call(identity: object, name: object, given: object) -> dict[str, Any]:
    # written as vLLM writes it, with its spaces and escapes, for they are tokens
    arguments = given if isinstance(given, str) else json.dumps(given or {})
    return {"id": identity or "", "type": "function", "function": {"name": name or "", "arguments": arguments}}


def _function(tool: Any) -> dict[str, Any]:
    known = tool if isinstance(tool, dict) else {}
    words = {
        "name": known.get("name"),
        "description": known.get("description"),
        "parameters": known.get("input_schema"),
    }
    return {"type": "function", "function": {key: value for key, value in words.items() if value is not None}}


def _wrapped(tool: Any) -> dict[str, Any]:
    known = tool if isinstance(tool, dict) else {}
    return {"type": "function", "function": {k: v for k, v in known.items() if k != "type" and v is not None}}


def _from_responses(body: Body) -> list[Any]:
    """The items of a `responses` request; near enough, for vLLM's own way depends on the model."""
    chat: list[Any] = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    items = body.get("input")
    if isinstance(items, str):
        return [*chat, {"role": "user", "content": items}]
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        if item.get("type") == "function_call":
            call = _call(item.get("call_id"), item.get("name"), item.get("arguments") or "{}")
            chat.append({"role": "assistant", "tool_calls": [call]})
        elif item.get("type") == "function_call_output":
            text = _joined(item.get("output"), "\n")
            chat.append({"role": "tool", "tool_call_id": item.get("call_id") or "", "content": text})
        elif "role" in item:
            chat.append({"role": item["role"], "content": _joined(item.get("content"))})
    return chat


def _joined(content: object, by: str = "") -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return by.join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))


def _system_first(messages: list[Any]) -> list[Any]:
    system = [m for m in messages if m.get("role") == "system"]
    text = "".join(str(m.get("content") or "") for m in system)
    return [{"role": "system", "content": text}, *(m for m in messages if m.get("role") != "system")]
