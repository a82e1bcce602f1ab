"""Every path that leads to a model: its dialect, the types of its fields, and the rules for its request bodies. Pure.

A field of another type is rejected with its path, as Anthropic's and OpenAI's own servers do; LiteLLM and vLLM would
fail on it with an internal error. Null counts as absent, and unknown fields are not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from bouchet_proxy.routing.table import Route

from .anthropic import prepare_count, prepare_messages, unanswered_prefill
from .openai import prepare_chat, prepare_completion, prepare_embeddings
from .responses import first_invalid_item, prepare_responses, stored_elsewhere
from .shapes import MAIN_FIELDS, wrong_shape
from .tokens import LIMIT_FIELDS, Body

Predicate = Callable[[Any], bool]
# whether a value is of the type, and how a message names the type
FieldType = tuple[Predicate, str]


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


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

_STOP: FieldType = (_either(_is_string, _is_string_list), "a string or a list of strings")

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
    "structured_outputs": _OBJECT,
    "chat_template_kwargs": _OBJECT,
    "stop": _STOP,
}
COMPLETION_FIELDS = {
    **MODEL_FIELD,
    "stream": _BOOLEAN,
    "stream_options": _OBJECT,
    "response_format": _OBJECT,
    "structured_outputs": _OBJECT,
    "stop": _STOP,
}
RESPONSES_FIELDS = {
    **_COMMON,
    "input": (_either(_is_string, _is_object_list), "a string or a list of objects"),
    "instructions": _STRING,
    "tool_choice": _TOOL_CHOICE,
    "metadata": _OBJECT,
    "reasoning": _OBJECT,
    "text": _OBJECT,
    "structured_outputs": _OBJECT,
    "chat_template_kwargs": _OBJECT,
}
_MESSAGE = {"role": _STRING, "content": _CONTENT}
_CALLING = {"tool_calls": _OBJECT_LIST, "function_call": _OBJECT}
_CALL = {"id": _STRING, "type": _STRING, "function": _OBJECT, "custom": _OBJECT}
_BLOCK = {"type": _STRING, "text": _STRING}
_TOOL_RESULT = {"content": _CONTENT}
# of a tool, and of a choice of one
_NAMED = {"type": _STRING, "name": _STRING}


def first_invalid_field(body: Mapping[str, Any], fields: Mapping[str, FieldType]) -> str | None:
    """Return the first field of another type, with the right one: `tools: must be a list of objects`."""
    return next(_invalid_parts(body, fields), None)


def _invalid_parts(body: Mapping[str, Any], fields: Mapping[str, FieldType]) -> Iterator[str]:
    """Yield the invalid fields of the body, of its tools and the choice of one, and of its system prompt."""
    yield from _invalid_fields(body, fields, "")
    if "tools" in fields:
        for number, tool in enumerate(body.get("tools") or ()):
            yield from _invalid_fields(tool, _NAMED, f"tools[{number}].")
    if "tool_choice" in fields and isinstance(choice := body.get("tool_choice"), dict):
        yield from _invalid_fields(choice, _NAMED, "tool_choice.")
    if "system" in fields:
        yield from _invalid_blocks(body.get("system"), "system")
    form = body.get("response_format") if "response_format" in fields else None
    if isinstance(form, dict) and form.get("type") == "json_schema" and not isinstance(form.get("json_schema"), dict):
        yield 'response_format.json_schema: is missing; it is {"name": ..., "schema": ...}'


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
        # most messages are plain: what is cheap for them is cheap for a long request
        is_plain = isinstance(message.get("content"), str) and isinstance(message.get("role"), str)
        if not is_plain:
            yield from _invalid_fields(message, _MESSAGE, f"messages[{index}].")
            yield from _invalid_blocks(message.get("content"), f"messages[{index}].content")
        if "tool_calls" in message or "function_call" in message:
            yield from _invalid_fields(message, _CALLING, f"messages[{index}].")
            yield from _invalid_calls(message.get("tool_calls") or (), f"messages[{index}].tool_calls")


def _invalid_calls(calls: Iterable[Mapping[str, Any]], path: str) -> Iterator[str]:
    for number, call in enumerate(calls):
        place = f"{path}[{number}]."
        yield from _invalid_fields(call, _CALL, place)
        if call.get("function") is None and call.get("custom") is None:
            yield f"{place}function: is missing"
        for kind in ("function", "custom"):
            yield from _invalid_fields(call.get(kind) or {}, {"name": _STRING}, f"{place}{kind}.")


def _invalid_blocks(content: object, path: str) -> Iterator[str]:
    """Yield the invalid fields of blocks, and of those within tool results."""
    for number, block in enumerate(content if isinstance(content, list) else ()):
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            continue
        yield from _invalid_fields(block, _BLOCK, f"{path}[{number}].")
        if block.get("type") == "text" and "text" not in block:
            yield f"{path}[{number}].text: is missing"
        if block.get("type") == "tool_result":
            yield from _invalid_fields(block, _TOOL_RESULT, f"{path}[{number}].")
            yield from _invalid_blocks(block.get("content"), f"{path}[{number}].content")


def _invalid_fields(value: Mapping[str, Any], fields: Mapping[str, FieldType], path: str) -> Iterator[str]:
    for name, (is_valid, type_name) in fields.items():
        found = value.get(name)
        if found is not None and not is_valid(found):
            yield f"{path}{name}: must be {type_name}"


class Dialect(StrEnum):
    """Whose API the client uses."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    GOOGLE = "google"


class Endpoint(StrEnum):
    """The paths that lead to a model.

    All are the same in vLLM but INPUT_TOKENS, which it does not have, and Gemini's, which have the model in them.
    """

    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    INPUT_TOKENS = "/v1/responses/input_tokens"
    EMBEDDINGS = "/v1/embeddings"
    GENERATE_CONTENT = "/v1beta/models/{model}:generateContent"
    COUNT_CONTENT = "/v1beta/models/{model}:countTokens"


_ENDPOINTS = {str(endpoint): endpoint for endpoint in Endpoint} | {
    "/chat/completions": Endpoint.CHAT,
    "/completions": Endpoint.COMPLETIONS,
    "/embeddings": Endpoint.EMBEDDINGS,
    "/responses": Endpoint.RESPONSES,
    "/responses/input_tokens": Endpoint.INPUT_TOKENS,
    "/messages": Endpoint.MESSAGES,
    "/messages/count_tokens": Endpoint.COUNT_TOKENS,
}
_FIELDS = {
    Endpoint.MESSAGES: ANTHROPIC_FIELDS,
    Endpoint.COUNT_TOKENS: ANTHROPIC_FIELDS,
    Endpoint.CHAT: CHAT_FIELDS,
    Endpoint.COMPLETIONS: COMPLETION_FIELDS,
    Endpoint.RESPONSES: RESPONSES_FIELDS,
}
_ANTHROPIC_ENDPOINTS = (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS)
GOOGLE_ENDPOINTS = (Endpoint.GENERATE_CONTENT, Endpoint.COUNT_CONTENT)
# what no model generates for
COUNTING = (Endpoint.COUNT_TOKENS, Endpoint.COUNT_CONTENT, Endpoint.INPUT_TOKENS)
# counted by vLLM's `/tokenize`, as it has no such path
TOKENIZED = (Endpoint.COUNT_CONTENT, Endpoint.INPUT_TOKENS)
_WITH_MESSAGES = (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS, Endpoint.CHAT)


class InvalidBodyError(ValueError):
    """The body is not a request of this dialect; the message is for the client."""


class ThreadUnsupportedError(InvalidBodyError):
    """The client wants to send only new messages and have the server keep the conversation."""


def normalize_path(path: str) -> str:
    """Return a path as it is served: clients put `/v1` or a slash into the base URL that they add again."""
    path = "/" + "/".join(filter(None, path.strip().split("/")))
    while path.startswith(("/v1/v1/", "/v1/v1beta/", "/v1beta/v1beta/")):
        path = "/" + path.split("/", 2)[2]
    return path


def endpoint_of(path: str) -> Endpoint | None:
    """Return the endpoint of a normalized path, None when there is none."""
    found = _ENDPOINTS.get(path)
    if found is None and (target := parse_target(path)) is not None:
        return target.endpoint
    return found


def dialect_of(path: str, client: Dialect | None = None) -> Dialect:
    """Return the dialect in which to respond on that path. client: that of the client, where its headers name it.

    An endpoint has its own dialect; the client's counts on all other paths.
    """
    if (endpoint := endpoint_of(path)) is not None:
        if endpoint in GOOGLE_ENDPOINTS:
            return Dialect.GOOGLE
        return Dialect.ANTHROPIC if endpoint in _ANTHROPIC_ENDPOINTS else Dialect.OPENAI
    if path.startswith("/v1beta/"):
        return Dialect.GOOGLE
    return client or (Dialect.ANTHROPIC if "/messages" in path else Dialect.OPENAI)


@dataclass(frozen=True, slots=True)
class GoogleTarget:
    """What the path of a Gemini request names: the model, and what is asked of it."""

    model: str
    endpoint: Endpoint
    streams: bool = False


# the three versions of Google's API have the same paths
_GOOGLE_PATH = re.compile(r"^/v1(?:beta|alpha)?/models/(.+):(\w+)$", re.S)
_GOOGLE_METHODS = {
    "generateContent": (Endpoint.GENERATE_CONTENT, False),
    "streamGenerateContent": (Endpoint.GENERATE_CONTENT, True),
    "countTokens": (Endpoint.COUNT_CONTENT, False),
}


def parse_target(path: str) -> GoogleTarget | None:
    """Return what a path of Gemini's API names, None for any other path."""
    if (found := _GOOGLE_PATH.match(path)) is None or found[2] not in _GOOGLE_METHODS:
        return None
    endpoint, streams = _GOOGLE_METHODS[found[2]]
    return GoogleTarget(found[1], endpoint, streams)


def check_body(endpoint: Endpoint, body: object) -> Body:
    """Return the body if it has what the rules below rely on. Raises InvalidBodyError."""
    if not isinstance(body, dict):
        raise InvalidBodyError("the request body must be a JSON object")
    if endpoint is Endpoint.INPUT_TOKENS:
        return check_body(Endpoint.RESPONSES, _with_input(body))
    invalid = stored_elsewhere(body) if endpoint is Endpoint.RESPONSES else None
    invalid = invalid or wrong_shape(endpoint, body) or first_invalid_field(body, _FIELDS.get(endpoint, MODEL_FIELD))
    if invalid is None and endpoint in _WITH_MESSAGES:
        invalid = first_invalid_message(body.get("messages"))
    if invalid is None and endpoint is Endpoint.RESPONSES:
        invalid = first_invalid_item(body)
    if invalid is None and endpoint is Endpoint.MESSAGES:
        invalid = unanswered_prefill(body["messages"])
    if invalid is not None:
        raise InvalidBodyError(invalid)
    if endpoint in _ANTHROPIC_ENDPOINTS and body.get("thread"):
        raise ThreadUnsupportedError("thread: conversations are not stored; send all messages with every request")
    _check_sizes(endpoint, body)
    return body


def _with_input(body: Body) -> Body:
    """Return a body to be counted with an input, which OpenAI lets clients leave out there; limits do not matter."""
    kept = {key: value for key, value in body.items() if key not in LIMIT_FIELDS}
    is_other = any(kept.get(name) is not None for name in MAIN_FIELDS.values())
    return kept if is_other else {**kept, "input": ""}


def count_answer(endpoint: Endpoint, tokens: int) -> Body:
    """Return the size of a prompt as that path answers."""
    if endpoint is Endpoint.COUNT_CONTENT:
        return {"totalTokens": tokens}
    return {"object": "response.input_tokens", "input_tokens": tokens}


def _check_sizes(endpoint: Endpoint, body: Body) -> None:
    """Check the limits, and that there is a message at all. Raises InvalidBodyError."""
    lowest = 1 if endpoint is Endpoint.RESPONSES else 0
    for name in LIMIT_FIELDS:
        limit = body.get(name)
        if limit is not None and not (_is_whole(limit) and limit >= lowest):
            raise InvalidBodyError(f"{name}: must be a whole number of at least {lowest}")
    for name in ("messages", "input"):
        if body.get(name) == [] and endpoint is not Endpoint.EMBEDDINGS:
            raise InvalidBodyError(f"{name}: at least one message is required")


def _is_whole(value: object) -> bool:
    """Return whether a value is a whole number; some languages write one as 4096.0."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def prepare(endpoint: Endpoint, body: Body, route: Route) -> Body:
    """Return the body as the model of this route accepts it; the model's name is not changed."""
    match endpoint:
        case Endpoint.MESSAGES:
            return prepare_messages(body, route.window, route.traits)
        case Endpoint.COUNT_TOKENS:
            return prepare_count(body, route.traits)
        case Endpoint.CHAT | Endpoint.GENERATE_CONTENT | Endpoint.COUNT_CONTENT:
            # those of Gemini have become chats before
            return prepare_chat(body, route.window, route.traits)
        case Endpoint.COMPLETIONS:
            return prepare_completion(body, route.window)
        case Endpoint.RESPONSES | Endpoint.INPUT_TOKENS:
            return prepare_responses(body, route.window, route.traits)
        case Endpoint.EMBEDDINGS:
            return prepare_embeddings(body)
        case _:
            assert_never(endpoint)
