"""The types that the dialects give their fields. Pure.

A field of another type is rejected with its path, as Anthropic's and OpenAI's own servers do; LiteLLM and vLLM would
fail on it with an internal error. Null counts as absent, and unknown fields are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Predicate = Callable[[Any], bool]
# whether a value is of the type, and how a message names the type
FieldType = tuple[Predicate, str]


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_string_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_object_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _either(one: Predicate, other: Predicate) -> Predicate:
    return lambda value: one(value) or other(value)


_OBJECT_LIST: FieldType = (_is_object_list, "a list of objects")
_STRING: FieldType = (_is_string, "a string")
_BOOLEAN: FieldType = (_is_boolean, "true or false")
_OBJECT: FieldType = (_is_object, "an object")
_CONTENT: FieldType = (_either(_is_string, _is_object_list), "a string or a list of objects")
_TOOL_CHOICE: FieldType = (_either(_is_string, _is_object), "a string or an object")

MODEL_FIELD: dict[str, FieldType] = {"model": _STRING}
_COMMON = {**MODEL_FIELD, "stream": _BOOLEAN, "tools": _OBJECT_LIST}

ANTHROPIC_FIELDS = {
    **_COMMON,
    "system": _CONTENT,
    "tool_choice": _OBJECT,
    "thinking": _OBJECT,
    "output_config": _OBJECT,
    "metadata": _OBJECT,
    "context_management": _OBJECT,
    "stop_sequences": (_is_string_list, "a list of strings"),
}
CHAT_FIELDS = {
    **_COMMON,
    "tool_choice": _TOOL_CHOICE,
    "stream_options": _OBJECT,
    "response_format": _OBJECT,
    "chat_template_kwargs": _OBJECT,
    "stop": (_either(_is_string, _is_string_list), "a string or a list of strings"),
}
RESPONSES_FIELDS = {
    **_COMMON,
    "input": (_either(_is_string, _is_list), "a string or a list"),
    "instructions": _STRING,
    "tool_choice": _TOOL_CHOICE,
    "metadata": _OBJECT,
    "reasoning": _OBJECT,
    "text": _OBJECT,
}
_MESSAGE = {"role": _STRING, "content": _CONTENT}
_BLOCK = {"type": _STRING, "text": _STRING}


def first_invalid_field(body: Mapping[str, Any], fields: Mapping[str, FieldType]) -> str | None:
    """Return the first field of another type, with the right one: `tools: must be a list of objects`."""
    return next(_invalid_fields(body, fields, ""), None)


def first_invalid_message(messages: object) -> str | None:
    """Return the same for a conversation: the path of the first invalid field in a message or one of its blocks."""
    if not isinstance(messages, list):
        return "messages: must be a list"
    return next(_invalid_messages(messages), None)


def _invalid_messages(messages: list[Any]) -> Iterator[str]:
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            yield f"messages[{index}]: must be an object with a role and content"
            continue
        yield from _invalid_fields(message, _MESSAGE, f"messages[{index}].")
        content = message.get("content")
        for number, block in enumerate(content if isinstance(content, list) else ()):
            yield from _invalid_fields(block, _BLOCK, f"messages[{index}].content[{number}].")


def _invalid_fields(value: Mapping[str, Any], fields: Mapping[str, FieldType], path: str) -> Iterator[str]:
    for name, (is_valid, type_name) in fields.items():
        found = value.get(name)
        if found is not None and not is_valid(found):
            yield f"{path}{name}: must be {type_name}"
