"""Bodies in the shape of another API than the path's: the sentence that names the right path. Pure.

Such a body would be refused for a detail, or answered without what it asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MESSAGES, CHAT, RESPONSES = "/v1/messages", "/v1/chat/completions", "/v1/responses"
COMPLETIONS, COUNT_TOKENS, EMBEDDINGS = "/v1/completions", "/v1/messages/count_tokens", "/v1/embeddings"
GENERATE_CONTENT, COUNT_CONTENT = "/v1beta/models/{model}:generateContent", "/v1beta/models/{model}:countTokens"
_ANTHROPIC_PATHS = (MESSAGES, COUNT_TOKENS)
# the field that a request of each path cannot do without
MAIN_FIELDS = {
    MESSAGES: "messages",
    COUNT_TOKENS: "messages",
    CHAT: "messages",
    COMPLETIONS: "prompt",
    RESPONSES: "input",
    EMBEDDINGS: "input",
    GENERATE_CONTENT: "contents",
    COUNT_CONTENT: "contents",
}
_NAMES = {
    MESSAGES: "Anthropic's messages",
    CHAT: "OpenAI's chats",
    RESPONSES: "OpenAI's responses",
    GENERATE_CONTENT: "Gemini's contents",
}
_ANTHROPIC_BLOCKS = ("tool_use", "tool_result", "server_tool_use", "web_search_tool_result")
_CHAT_BLOCKS = ("image_url", "video_url", "audio_url", "input_audio")
_ANTHROPIC_CHOICES = ("any", "tool")
_COMMON_ROLES = ("user", "assistant", "system")
_ITEMS = ("function_call", "function_call_output", "reasoning", "item_reference")
_OF_MESSAGES = {"system": "", "stop_sequences": "stop", "max_tokens_to_sample": "max_tokens"}
_OF_GEMINI = {"generationConfig": "", "systemInstruction": "", "system_instruction": "", "generation_config": ""}
# Fields of other APIs that would stay unread although the answer depends on them: for each path, whose they are, and
# what it calls them itself, '' where it has no such field. A limit of the answer is read under any of its names.
_FOREIGN_FIELDS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    MESSAGES: {
        CHAT: {
            "stop": "stop_sequences",
            "response_format": "output_config.format",
            "functions": "tools",
            "n": "",
        },
        RESPONSES: {"instructions": "system"},
        GENERATE_CONTENT: _OF_GEMINI,
    },
    CHAT: {
        MESSAGES: _OF_MESSAGES,
        RESPONSES: {"instructions": ""},
        GENERATE_CONTENT: _OF_GEMINI,
    },
    COMPLETIONS: {
        MESSAGES: _OF_MESSAGES,
        RESPONSES: {"instructions": ""},
        GENERATE_CONTENT: _OF_GEMINI,
    },
    RESPONSES: {
        CHAT: {
            "response_format": "text.format",
            "functions": "tools",
            "n": "",
        },
        MESSAGES: {"system": "instructions", "stop_sequences": "stop"},
        GENERATE_CONTENT: _OF_GEMINI,
    },
    EMBEDDINGS: {RESPONSES: {"instructions": "", "tools": ""}},
}
OLDEST_LIMIT = "max_tokens_to_sample"


def wrong_shape(path: str, body: Mapping[str, Any]) -> str | None:
    """Return a sentence about a body that belongs to another path; None for one that may belong here."""
    wanted = MAIN_FIELDS[path]
    if body.get(wanted) is None:
        return _other_main_field(path, wanted, body)
    if found := next(_signs_elsewhere(path, body), None):
        sign, other = found
        return f"{sign}: this is the shape of {_NAMES[other]}; send it to {other}"
    return _other_part(path, body) or next(_foreign_fields(path, body), None)


def _other_part(path: str, body: Mapping[str, Any]) -> str | None:
    return _other_tool(path, body) or _other_choice(path, body) or _other_input(path, body)


def _signs_elsewhere(path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield where a conversation has what only another path's has, and that path."""
    if path in _ANTHROPIC_PATHS:
        yield from ((sign, CHAT) for sign in _chat_signs(body))
    elif path == CHAT:
        yield from ((sign, MESSAGES) for sign in _anthropic_signs(body))
    else:
        return
    for index, message in _special_messages(body):
        if message.get("content") is None and isinstance(message.get("parts"), list):
            yield f"messages[{index}].parts", GENERATE_CONTENT
        if message.get("role") is None and message.get("type") in _ITEMS:
            yield f"messages[{index}] of type {message['type']!r}", RESPONSES


def _other_tool(path: str, body: Mapping[str, Any]) -> str | None:
    if path == RESPONSES and (sign := _nested_tool(body)):
        shape = '{"type": "function", "name": ..., "parameters": ...}'
        return f"{sign}: this is the shape of {_NAMES[CHAT]}; a tool of {RESPONSES} is {shape}"
    if path == CHAT and (sign := _flat_tool(body)):
        shape = '{"type": "function", "function": {"name": ..., "parameters": ...}}'
        return f"{sign}: is missing; a tool of {CHAT} is {shape} ({RESPONSES} has it flat)"
    if path in _ANTHROPIC_PATHS and (sign := _tool_without_schema(body)):
        shape = '{"name": ..., "input_schema": ...}'
        return f"{sign}: this is the shape of {_NAMES[RESPONSES]} ({RESPONSES}); a tool of {path} is {shape}"
    return None


def _other_choice(path: str, body: Mapping[str, Any]) -> str | None:
    """Return what the choice of a tool is called here, where it has another API's form."""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or kind not in ("function", "required", "allowed_tools"):
        return None
    is_nested = isinstance(choice.get("function"), dict)
    if path in _ANTHROPIC_PATHS:
        return f'tool_choice of type {kind!r}: this is the shape of OpenAI; {path} has {{"type": "any"}} and "tool"'
    if path == CHAT and kind == "function" and not is_nested:
        return f'tool_choice.function: is missing; {CHAT} has {{"type": "function", "function": {{"name": ...}}}}'
    if path == RESPONSES and kind == "function" and is_nested:
        return f'tool_choice.name: is missing; {RESPONSES} has {{"type": "function", "name": ...}}'
    return None


def _other_input(path: str, body: Mapping[str, Any]) -> str | None:
    """Return where a list belongs whose members are of another kind than those of this path."""
    given = body.get(MAIN_FIELDS[path])
    first = given[0] if isinstance(given, list) and given else None
    if path == RESPONSES and _is_text_list(given):
        return f"input: must be a string or a list of objects; a list of texts is for {EMBEDDINGS}"
    if path == EMBEDDINGS and isinstance(first, dict) and "role" in first:
        return f"input: must be a string or a list of strings; a conversation is for {RESPONSES}"
    if path == COMPLETIONS and isinstance(first, dict) and "role" in first:
        return f"prompt: must be a string or a list of strings; a conversation is for {CHAT}, as `messages`"
    return None


def _is_text_list(value: object) -> bool:
    """Return whether a value is a list of texts, or of tokens."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, str | int) for item in value)


def _foreign_fields(path: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Yield which fields would stay unread here although the answer depends on them."""
    for other, fields in _FOREIGN_FIELDS.get(MESSAGES if path == COUNT_TOKENS else path, {}).items():
        for name, own in fields.items():
            value = body.get(name)
            if not value or value == 1 or (name == OLDEST_LIMIT and body.get(own) is not None):
                continue
            here = f"{path} calls it `{own}`" if own else f"{path} has no such field: send the request there"
            yield f"{name}: is a field of {_NAMES[other]} ({other}); {here}"


def _other_main_field(path: str, wanted: str, body: Mapping[str, Any]) -> str:
    """Return which path has the field that the body has instead of the one that is wanted."""
    for other in (CHAT, RESPONSES, COMPLETIONS, GENERATE_CONTENT):
        name = MAIN_FIELDS[other]
        if name != wanted and isinstance(body.get(name), str | list | dict):
            return f"{wanted}: is missing; a body with `{name}` is for {_precise_path(other, body)}"
    return f"{wanted}: must be a list" if wanted == "messages" else f"{wanted}: is missing"


def _precise_path(path: str, body: Mapping[str, Any]) -> str:
    """Return the path whose shape the whole body has, of those with the same main field."""
    if path == CHAT and next(_anthropic_signs(body), None):
        return MESSAGES
    has_texts = "dimensions" in body or "encoding_format" in body or _is_text_list(body.get("input"))
    return EMBEDDINGS if path == RESPONSES and has_texts else path


def _special_messages(body: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return the messages that are more than a text of one of the roles that all dialects have, with their places."""
    messages = body.get("messages")
    return [
        (index, message)
        for index, message in enumerate(messages if isinstance(messages, list) else ())
        if isinstance(message, dict)
        and not (
            isinstance(message.get("content"), str)
            and message.get("role") in _COMMON_ROLES
            and "tool_calls" not in message
        )
    ]


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
    for index, message in _special_messages(body):
        if message.get("role") in ("tool", "function"):
            yield f"messages[{index}].role {message['role']!r}"
        if isinstance(message.get("tool_calls"), list) and message["tool_calls"]:
            yield f"messages[{index}].tool_calls"
        for number, block in _blocks(message):
            if block.get("type") in _CHAT_BLOCKS or (
                block.get("type") == "file" and isinstance(block.get("file"), dict)
            ):
                yield f"messages[{index}].content[{number}] of type {block['type']!r}"
    for index, tool in _tools(body):
        if tool.get("type") == "function" and isinstance(tool.get("function"), dict):
            yield f"tools[{index}].function"


def _anthropic_signs(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the body has what only Anthropic's messages have."""
    if isinstance(body.get("system"), str | list) and body["system"]:
        yield "system"
    for index, message in _special_messages(body):
        if isinstance(message.get("content"), str):
            continue
        for number, block in _blocks(message):
            if block.get("type") in _ANTHROPIC_BLOCKS:
                yield f"messages[{index}].content[{number}] of type {block['type']!r}"
    for index, tool in _tools(body):
        if isinstance(tool.get("input_schema"), dict):
            yield f"tools[{index}].input_schema"
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in _ANTHROPIC_CHOICES:
        yield f"tool_choice of type {choice['type']!r}"


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


def _tool_without_schema(body: Mapping[str, Any]) -> str | None:
    """Return the parameters of a tool that would be offered without any, or left out as one of the provider's."""
    for index, tool in _tools(body):
        if isinstance(tool.get("parameters"), dict) and not isinstance(tool.get("input_schema"), dict):
            return f"tools[{index}].parameters"
    return None
