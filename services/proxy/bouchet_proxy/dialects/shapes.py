"""Bodies in the shape of another API than the path's: the sentence that names the right path. Pure.

Such a body would be refused for a detail, or answered without what it asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MESSAGES, CHAT, RESPONSES = "/v1/messages", "/v1/chat/completions", "/v1/responses"
COMPLETIONS, COUNT_TOKENS = "/v1/completions", "/v1/messages/count_tokens"
GENERATE_CONTENT, COUNT_CONTENT = "/v1beta/models/{model}:generateContent", "/v1beta/models/{model}:countTokens"
_ANTHROPIC_PATHS = (MESSAGES, COUNT_TOKENS)
# the field that a request of each path cannot do without
MAIN_FIELDS = {
    MESSAGES: "messages",
    COUNT_TOKENS: "messages",
    CHAT: "messages",
    COMPLETIONS: "prompt",
    RESPONSES: "input",
    "/v1/embeddings": "input",
    GENERATE_CONTENT: "contents",
    COUNT_CONTENT: "contents",
}
_NAMES = {MESSAGES: "Anthropic's messages", CHAT: "OpenAI's chats", RESPONSES: "OpenAI's responses"}
_ANTHROPIC_BLOCKS = ("tool_use", "tool_result")


def wrong_shape(path: str, body: Mapping[str, Any]) -> str | None:
    """Return a sentence about a body that belongs to another path; None for one that may belong here."""
    wanted = MAIN_FIELDS[path]
    if body.get(wanted) is None:
        return _other_main_field(path, wanted, body)
    if path in _ANTHROPIC_PATHS and (sign := next(_chat_signs(body), None)):
        return f"{sign}: this is the shape of {_NAMES[CHAT]}; send it to {CHAT}"
    if path == CHAT and (sign := next(_anthropic_signs(body), None)):
        return f"{sign}: this is the shape of {_NAMES[MESSAGES]}; send it to {MESSAGES}"
    if path == RESPONSES and (sign := _nested_tool(body)):
        shape = '{"type": "function", "name": ..., "parameters": ...}'
        return f"{sign}: this is the shape of {_NAMES[CHAT]}; a tool of {RESPONSES} is {shape}"
    if path == CHAT and (sign := _flat_tool(body)):
        shape = '{"type": "function", "function": {"name": ..., "parameters": ...}}'
        return f"{sign}: is missing; a tool of {CHAT} is {shape} ({RESPONSES} has it flat)"
    return None


def _other_main_field(path: str, wanted: str, body: Mapping[str, Any]) -> str:
    """Return which path has the field that the body has instead of the one that is wanted."""
    for other in (CHAT, RESPONSES, COMPLETIONS, GENERATE_CONTENT):
        name = MAIN_FIELDS[other]
        if name != wanted and isinstance(body.get(name), str | list):
            return f"{wanted}: is missing; a body with `{name}` is for {other}"
    return f"{wanted}: must be a list" if wanted == "messages" else f"{wanted}: is missing"


def _messages(body: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    messages = body.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            yield index, message


def _tools(body: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    tools = body.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict):
            yield index, tool


def _blocks(message: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield index, block


def _chat_signs(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the body has what only OpenAI's chats have."""
    for index, message in _messages(body):
        if message.get("role") in ("tool", "function"):
            yield f"messages[{index}].role {message['role']!r}"
        if isinstance(message.get("tool_calls"), list) and message["tool_calls"]:
            yield f"messages[{index}].tool_calls"
        for number, block in _blocks(message):
            if block.get("type") == "image_url":
                yield f"messages[{index}].content[{number}] of type 'image_url'"
    for index, tool in _tools(body):
        if tool.get("type") == "function" and isinstance(tool.get("function"), dict):
            yield f"tools[{index}].function"


def _anthropic_signs(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the body has what only Anthropic's messages have."""
    if isinstance(body.get("system"), str | list) and body["system"]:
        yield "system"
    for index, message in _messages(body):
        if isinstance(message.get("content"), str):
            continue
        for number, block in _blocks(message):
            if block.get("type") in _ANTHROPIC_BLOCKS:
                yield f"messages[{index}].content[{number}] of type {block['type']!r}"
    for index, tool in _tools(body):
        if isinstance(tool.get("input_schema"), dict):
            yield f"tools[{index}].input_schema"


def _nested_tool(body: Mapping[str, Any]) -> str | None:
    for index, tool in _tools(body):
        if isinstance(tool.get("function"), dict) and tool.get("name") is None:
            return f"tools[{index}].function"
    return None


def _flat_tool(body: Mapping[str, Any]) -> str | None:
    for index, tool in _tools(body):
        if tool.get("type") == "function" and not isinstance(tool.get("function"), dict):
            return f"tools[{index}].function"
    return None
