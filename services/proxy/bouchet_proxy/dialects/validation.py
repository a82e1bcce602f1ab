"""The shapes that the dialects give their fields. Pure.

What has another shape is refused with its place, as Anthropic's and OpenAI's own servers do; the libraries behind would
stumble over it. Null is as good as absent, and what nobody knows is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Shape = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _either(one: Shape, other: Shape) -> Shape:
    return lambda value: one(value) or other(value)


_A_LIST_OF_OBJECTS = (_is_objects, "a list of objects")
_TEXT = (_is_text, "text")
_FLAG = (_is_flag, "true or false")
_OBJECT = (_is_object, "an object")
_CONTENT = (_either(_is_text, _is_objects), "text or a list of objects")

MODEL_SHAPES: dict[str, tuple[Shape, str]] = {"model": _TEXT}
_COMMON = {**MODEL_SHAPES, "stream": _FLAG, "tools": _A_LIST_OF_OBJECTS}
_TOOL_CHOICE = (_either(_is_text, _is_object), "text or an object")

ANTHROPIC_SHAPES = {
    **_COMMON,
    "system": _CONTENT,
    "tool_choice": _OBJECT,
    "thinking": _OBJECT,
    "output_config": _OBJECT,
    "metadata": _OBJECT,
    "context_management": _OBJECT,
    "stop_sequences": (_is_texts, "a list of texts"),
}
CHAT_SHAPES = {
    **_COMMON,
    "tool_choice": _TOOL_CHOICE,
    "stream_options": _OBJECT,
    "response_format": _OBJECT,
    "chat_template_kwargs": _OBJECT,
    "stop": (_either(_is_text, _is_texts), "text or a list of texts"),
}
RESPONSES_SHAPES = {
    **_COMMON,
    "input": (_either(_is_text, _is_list), "text or a list"),
    "instructions": _TEXT,
    "tool_choice": _TOOL_CHOICE,
    "metadata": _OBJECT,
    "reasoning": _OBJECT,
    "text": _OBJECT,
}
_MESSAGE = {"role": _TEXT, "content": _CONTENT}
_BLOCK = {"type": _TEXT, "text": _TEXT}


def misshapen(body: Mapping[str, Any], shapes: Mapping[str, tuple[Shape, str]]) -> str | None:
    """The first field of another shape, with what it must be: `tools: must be a list of objects`."""
    return next(_wrong(body, shapes, ""), None)


def misshapen_message(messages: object) -> str | None:
    """The same for a conversation and the blocks of its messages, by their places."""
    if not isinstance(messages, list):
        return "messages: must be a list"
    return next(_wrong_in(messages), None)


def _wrong_in(messages: list[Any]) -> Iterator[str]:
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            yield f"messages[{place}]: must be an object with a role and content"
            continue
        yield from _wrong(message, _MESSAGE, f"messages[{place}].")
        content = message.get("content")
        for number, block in enumerate(content if isinstance(content, list) else ()):
            yield from _wrong(block, _BLOCK, f"messages[{place}].content[{number}].")


def _wrong(value: Mapping[str, Any], shapes: Mapping[str, tuple[Shape, str]], where: str) -> Iterator[str]:
    for name, (fits, words) in shapes.items():
        found = value.get(name)
        if found is not None and not fits(found):
            yield f"{where}{name}: must be {words}"
