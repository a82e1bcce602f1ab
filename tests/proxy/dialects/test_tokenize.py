"""Conversations as bodies for /tokenize."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, check_body, prepare
from bouchet_proxy.dialects.tokenize import ends_in_think_block, tokenize_bodies
from bouchet_proxy.routing.table import Route
from hypothesis import given
from hypothesis import strategies as st

ROUTE = Route("d", "tiny", "org/Tiny", 0, "job", 4096, Traits(tool_parser="hermes"))
CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "é"}}
RESULT = {
    "type": "tool_result",
    "tool_use_id": "t1",
    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
}
NAMES = "model messages role content type text system tools name input input_schema thinking source instructions prompt"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(NAMES.split()), JSON), st.sampled_from(Endpoint))
def test_tokenize_bodies_accepts_every_prepared_body(body: dict[str, Any], endpoint: Endpoint) -> None:
    with contextlib.suppress(InvalidBodyError):
        prepared = prepare(endpoint, check_body(endpoint, body), ROUTE)
        before = copy.deepcopy(prepared)
        assert all(isinstance(one, dict) for one in tokenize_bodies(endpoint, prepared))
        assert prepared == before


def test_tokenize_bodies_of_responses_join_one_turn_of_the_assistant() -> None:
    text, thought = {"type": "output_text", "text": "so"}, {"type": "reasoning_text", "text": "hm"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": [], "content": [thought]},
        {"type": "message", "role": "assistant", "content": [text]},
        *({"type": "function_call", "call_id": one, "name": "f", "arguments": "{}"} for one in ("c1", "c2")),
        *({"type": "function_call_output", "call_id": one, "output": "x"} for one in ("c1", "c2")),
        {"type": "message", "role": "assistant", "content": [text]},
        {"type": "message", "role": "assistant", "content": "and"},
    ]
    body = {"input": items, "instructions": "be kind", "reasoning": {"effort": "low"}}
    (chat,) = tokenize_bodies(Endpoint.RESPONSES, body)
    assert chat["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "low"}
    assert [message["role"] for message in chat["messages"]] == [
        *("system", "user", "assistant", "tool", "tool", "assistant", "assistant")
    ]
    assert chat["messages"][1]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turn = chat["messages"][2]
    assert (turn["reasoning"], turn["content"]) == ("hm", "so")
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]


def test_tokenize_bodies_of_anthropic_messages_is_the_chat_that_vllm_makes_of_them() -> None:
    turns = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": [{"type": "text", "text": "so"}, CALL]},
        {"role": "user", "content": [{"type": "text", "text": "and?"}, RESULT]},
    ]
    tools = [{"name": "look", "description": "d", "input_schema": {"type": "object"}}]
    body = {
        "messages": turns,
        "system": [{"type": "text", "text": "be"}, {"type": "text", "text": " kind"}],
        "tools": tools,
    }
    (chat,) = tokenize_bodies(Endpoint.MESSAGES, body)
    function = {"name": "look", "arguments": '{"at": "\\u00e9"}'}
    assert chat["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "so", "tool_calls": [{"id": "t1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "t1", "content": "a\nb"},
        {"role": "user", "content": "and?"},
    ]
    assert chat["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}}
    ]


def test_tokenize_bodies_second_body_has_the_system_message_first() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    kept, moved = tokenize_bodies(Endpoint.CHAT, {"messages": turns})
    assert kept["messages"] == turns
    assert [message["role"] for message in moved["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("tokens", "inside"),
    [
        (["<|im_start|>", "assistant", "Ċ", "<think>", "Ċ"], True),
        (["<think>"], True),
        (["<think>", "ĊĊ", "</think>", "ĊĊ"], False),
        (["assistant", "Ċ"], False),
        ([], False),
    ],
)
def test_ends_in_think_block(tokens: list[str], inside: bool) -> None:
    assert ends_in_think_block(tokens) is inside
