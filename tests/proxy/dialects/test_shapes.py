"""Bodies in the shape of another API."""

from __future__ import annotations

from typing import Any

import pytest
from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, check_body
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
    ],
)
def test_body_of_its_own_api_has_the_right_shape(endpoint: Endpoint, body: dict[str, Any]) -> None:
    assert wrong_shape(endpoint, body) is None
    assert check_body(endpoint, body) == body


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
