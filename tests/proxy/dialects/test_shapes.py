"""Bodies in the shape of another API."""

from __future__ import annotations

from typing import Any

import pytest
from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, check_body
from bouchet_proxy.dialects.gemini import check_gemini
from bouchet_proxy.dialects.shapes import wrong_shape

HI = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "function": {"name": "f"}}
FLAT = {"type": "function", "name": "f"}
ANTHROPIC = {"name": "f", "input_schema": {"type": "object"}}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def turns(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [HI, *messages], **fields}


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        (Endpoint.MESSAGES, turns(tools=[FUNCTION]), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns({"role": "tool", "tool_call_id": "c", "content": "x"}), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns({"role": "assistant", "content": "", "tool_calls": [CALL]}), Endpoint.CHAT),
        (Endpoint.COUNT_TOKENS, turns({"role": "user", "content": [IMAGE]}), Endpoint.CHAT),
        (Endpoint.MESSAGES, {"input": "x"}, Endpoint.RESPONSES),
        (Endpoint.MESSAGES, {"prompt": "x"}, Endpoint.COMPLETIONS),
        (Endpoint.CHAT, turns(system="be kind"), Endpoint.MESSAGES),
        (Endpoint.CHAT, turns(tools=[ANTHROPIC]), Endpoint.MESSAGES),
        (Endpoint.CHAT, turns({"role": "user", "content": [{"type": "tool_result"}]}), Endpoint.MESSAGES),
        (Endpoint.CHAT, {"input": "x"}, Endpoint.RESPONSES),
        (Endpoint.CHAT, {"prompt": "x"}, Endpoint.COMPLETIONS),
        (Endpoint.CHAT, turns(tools=[FLAT]), Endpoint.RESPONSES),
        (Endpoint.COMPLETIONS, turns(), Endpoint.CHAT),
        (Endpoint.RESPONSES, turns(), Endpoint.CHAT),
        (Endpoint.RESPONSES, {"input": "x", "tools": [FUNCTION]}, Endpoint.RESPONSES),
        # whole bodies of another API, where only one field tells them apart
        (Endpoint.COMPLETIONS, turns(system="be kind"), Endpoint.MESSAGES),
        (Endpoint.RESPONSES, turns(tools=[ANTHROPIC]), Endpoint.MESSAGES),
        (Endpoint.EMBEDDINGS, turns({"role": "user", "content": [{"type": "tool_result"}]}), Endpoint.MESSAGES),
        (Endpoint.CHAT, {"input": ["a", "b"]}, Endpoint.EMBEDDINGS),
        (Endpoint.MESSAGES, {"input": "a", "encoding_format": "float"}, Endpoint.EMBEDDINGS),
        (Endpoint.COMPLETIONS, {"input": [1, 2, 3]}, Endpoint.EMBEDDINGS),
        (Endpoint.RESPONSES, {"input": ["a", "b"]}, Endpoint.EMBEDDINGS),
        (Endpoint.RESPONSES, {"input": [1, 2]}, Endpoint.EMBEDDINGS),
        (Endpoint.EMBEDDINGS, {"input": [HI]}, Endpoint.RESPONSES),
        (Endpoint.EMBEDDINGS, {"input": "x", "instructions": "y"}, Endpoint.RESPONSES),
        (Endpoint.COMPLETIONS, {"prompt": [HI]}, Endpoint.CHAT),
        (Endpoint.COMPLETIONS, {"messages": HI}, Endpoint.CHAT),
        (Endpoint.CHAT, {"contents": [{"parts": [{"text": "x"}]}]}, Endpoint.GENERATE_CONTENT),
        (Endpoint.MESSAGES, {"contents": {"parts": [{"text": "x"}]}}, Endpoint.GENERATE_CONTENT),
        # what is within messages
        (Endpoint.MESSAGES, turns({"role": "user", "parts": [{"text": "x"}]}), Endpoint.GENERATE_CONTENT),
        (Endpoint.CHAT, turns({"role": "model", "parts": [{"text": "x"}]}), Endpoint.GENERATE_CONTENT),
        (Endpoint.CHAT, turns({"type": "function_call", "name": "f", "arguments": "{}"}), Endpoint.RESPONSES),
        (Endpoint.MESSAGES, turns({"type": "function_call_output", "output": "x"}), Endpoint.RESPONSES),
        (Endpoint.MESSAGES, turns({"role": "user", "content": [{"type": "input_audio"}]}), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns({"role": "user", "content": [{"type": "file", "file": {}}]}), Endpoint.CHAT),
        (Endpoint.CHAT, turns(tool_choice={"type": "any"}), Endpoint.MESSAGES),
        (Endpoint.CHAT, turns(tool_choice={"type": "tool", "name": "f"}), Endpoint.MESSAGES),
        (Endpoint.MESSAGES, turns(tools=[{**FLAT, "parameters": {}}]), Endpoint.RESPONSES),
        (Endpoint.MESSAGES, turns(tools=[{"name": "f", "parameters": {"type": "object"}}]), Endpoint.MESSAGES),
        (Endpoint.MESSAGES, turns(tool_choice={"type": "function", "function": {"name": "f"}}), Endpoint.MESSAGES),
        (Endpoint.MESSAGES, turns(tool_choice={"type": "required"}), Endpoint.MESSAGES),
        (Endpoint.CHAT, turns(tool_choice={"type": "function", "name": "f"}), Endpoint.CHAT),
        (
            Endpoint.RESPONSES,
            {"input": "x", "tool_choice": {"type": "function", "function": {"name": "f"}}},
            Endpoint.RESPONSES,
        ),
        # fields without which the answer is another one
        (Endpoint.MESSAGES, turns(stop=["x"]), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns(response_format={"type": "json_object"}), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns(functions=[{"name": "f"}]), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns(n=2), Endpoint.CHAT),
        (Endpoint.MESSAGES, turns(instructions="x"), Endpoint.RESPONSES),
        (Endpoint.COUNT_TOKENS, turns(instructions="x"), Endpoint.RESPONSES),
        (Endpoint.MESSAGES, turns(generationConfig={"maxOutputTokens": 5}), Endpoint.GENERATE_CONTENT),
        (Endpoint.CHAT, turns(stop_sequences=["x"]), Endpoint.MESSAGES),
        (Endpoint.CHAT, turns(instructions="x"), Endpoint.RESPONSES),
        (Endpoint.CHAT, turns(systemInstruction={"parts": [{"text": "x"}]}), Endpoint.GENERATE_CONTENT),
        (Endpoint.COMPLETIONS, {"prompt": "x", "max_tokens_to_sample": 5}, Endpoint.MESSAGES),
        (Endpoint.COMPLETIONS, {"prompt": "x", "system": "y"}, Endpoint.MESSAGES),
        (Endpoint.RESPONSES, {"input": "x", "response_format": {"type": "json_object"}}, Endpoint.CHAT),
        (Endpoint.RESPONSES, {"input": "x", "system": "y"}, Endpoint.MESSAGES),
    ],
)
def test_body_of_another_api_names_its_path(endpoint: Endpoint, body: dict[str, Any], path: Endpoint) -> None:
    with pytest.raises(InvalidBodyError) as caught:
        check_body(endpoint, body)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.MESSAGES, turns(system="x", tools=[ANTHROPIC, {"type": "web_search_20250305", "name": "w"}])),
        (Endpoint.MESSAGES, turns({"role": "system", "content": "x"})),
        (Endpoint.CHAT, turns({"role": "assistant", "content": None, "tool_calls": [CALL]}, tools=[FUNCTION])),
        (Endpoint.CHAT, turns(tools=[{"type": "web_search"}])),
        (Endpoint.RESPONSES, {"input": "x", "tools": [FLAT]}),
        (Endpoint.COMPLETIONS, {"prompt": [1, 2]}),
        (Endpoint.EMBEDDINGS, {"input": ["x"]}),
        (Endpoint.EMBEDDINGS, {"input": [[1, 2], [3]], "dimensions": 5}),
        # what changes nothing, or repeats what this API has too
        (Endpoint.MESSAGES, turns(stop=None, n=1, functions=[], instructions="", max_tokens=5, max_output_tokens=5)),
        (Endpoint.CHAT, turns(stop_sequences=[], system="", max_tokens=5, max_output_tokens=5)),
        (Endpoint.CHAT, turns(tool_choice={"type": "function", "function": {"name": "f"}}, tools=[FUNCTION])),
        (Endpoint.RESPONSES, {"input": "x", "max_output_tokens": 5, "max_tokens": 5, "n": 1}),
        (Endpoint.COMPLETIONS, {"prompt": "x", "max_tokens": 5, "max_tokens_to_sample": 5}),
    ],
)
def test_body_of_its_own_api_has_the_right_shape(endpoint: Endpoint, body: dict[str, Any]) -> None:
    assert wrong_shape(endpoint, body) is None
    assert check_body(endpoint, body) == body


def test_field_of_another_api_is_named_with_what_this_one_calls_it() -> None:
    assert wrong_shape(Endpoint.MESSAGES, turns(stop="x")) == (
        "stop: is a field of OpenAI's chats (/v1/chat/completions); /v1/messages calls it `stop_sequences`"
    )
    assert wrong_shape(Endpoint.MESSAGES, turns(n=2)) == (
        "n: is a field of OpenAI's chats (/v1/chat/completions); /v1/messages has no such field: send the request there"
    )


@pytest.mark.parametrize("other", ["messages", "input", "prompt"])
def test_gemini_body_of_another_api_names_its_path(other: str) -> None:
    paths = {"messages": Endpoint.CHAT, "input": Endpoint.RESPONSES, "prompt": Endpoint.COMPLETIONS}
    with pytest.raises(InvalidBodyError) as caught:
        check_gemini({other: [HI] if other == "messages" else "x"})
    assert str(paths[other]) in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (Endpoint.CHAT, "messages: must be a list"),
        (Endpoint.MESSAGES, "messages: must be a list"),
        (Endpoint.RESPONSES, "input: is missing"),
        (Endpoint.COMPLETIONS, "prompt: is missing"),
        (Endpoint.EMBEDDINGS, "input: is missing"),
    ],
)
def test_body_without_its_main_field_names_it(endpoint: Endpoint, message: str) -> None:
    assert wrong_shape(endpoint, {"model": "x"}) == message


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1"}},
        {"background": True},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ],
)
def test_response_that_needs_a_stored_part_is_refused_with_what_to_do(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidBodyError, match="stored"):
        check_body(Endpoint.RESPONSES, {"input": "x", **fields})
