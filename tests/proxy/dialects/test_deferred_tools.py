"""Tools that a client loads, adds and removes in the middle of a conversation: the head of the prompt never changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import prepare_count, prepare_messages
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.dialects.tokenize import tokenize_bodies
from hypothesis import given
from hypothesis import strategies as st

Body = dict[str, Any]

TRAITS = Traits(tool_parser="qwen3_coder")
SCHEMA: Body = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
READ: Body = {"name": "Read", "description": "reads", "input_schema": {"type": "object", "properties": {}}}
FETCH: Body = {"name": "Fetch", "description": "fetches zebra42", "input_schema": SCHEMA}
DEFERRED: Body = {**FETCH, "defer_loading": True}
PLACEHOLDER: Body = {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object"}, "defer_loading": True}
SEARCH: Body = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}


def reference(name: str) -> Body:
    content = [{"type": "tool_reference", "tool_name": name}]
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": content}]}


def change(kind: str, tool: Body) -> Body:
    return {"role": "system", "content": [{"type": kind, "tool": tool}]}


def removal(name: str) -> Body:
    return change("tool_removal", {"type": "tool_reference", "name": name})


def addition(definition: Body) -> Body:
    return change("tool_addition", {"type": "tool_definition", "definition": definition})


def prepared(messages: list[Body], tools: list[Body], **fields: Any) -> Body:
    begin = {"role": "user", "content": "go"}
    return prepare_messages({"messages": [begin, *messages], "tools": tools, **fields}, 4096, TRAITS)


def head(body: Body) -> list[str]:
    """Return the names of the tools that the template gets."""
    kwargs = body.get("chat_template_kwargs")
    return [tool["function"]["name"] for tool in kwargs["tools"]] if kwargs else names(body)


def names(body: Body) -> list[str]:
    return [tool["name"] for tool in body.get("tools", ())]


def texts(body: Body) -> str:
    return json.dumps(body["messages"])


def test_deferred_tool_is_parsed_but_not_in_the_head() -> None:
    body = prepared([], [READ, DEFERRED])
    assert head(body) == ["Read"] and names(body) == ["Read", "Fetch"]
    assert all("defer_loading" not in tool for tool in body["tools"])
    assert "zebra42" not in texts(body)


def test_request_without_deferred_tools_is_left_to_vllm() -> None:
    assert "chat_template_kwargs" not in prepared([], [READ, FETCH])


def test_found_tool_is_shown_where_it_is_found_and_once() -> None:
    body = prepared([reference("Fetch"), reference("Fetch")], [READ, DEFERRED])
    first, second = (json.dumps(message) for message in body["messages"][1:])
    assert "zebra42" in first and "integer" in first and "<function>" in first
    assert "zebra42" not in second and "Fetch can be called" in second
    assert head(body) == ["Read"]


def test_reference_to_a_tool_in_the_head_has_no_definition() -> None:
    assert "reads" not in texts(prepared([reference("Read")], [READ, DEFERRED]))


def test_reference_to_an_unknown_tool_promises_nothing() -> None:
    assert "can be called" not in texts(prepared([reference("Gone")], [READ]))


def test_added_tool_is_shown_in_its_turn_and_parsed() -> None:
    body = prepared([addition(FETCH)], [READ])
    assert head(body) == ["Read"] and names(body) == ["Read", "Fetch"]
    assert body["messages"][1]["role"] == "user" and "zebra42" in body["messages"][1]["content"]


def test_removed_tool_is_declared_gone_and_stays_in_the_head() -> None:
    body = prepared([removal("Fetch")], [READ, FETCH])
    assert head(body) == ["Read", "Fetch"] and names(body) == ["Read"]
    assert "Fetch is no longer available" in texts(body)


def test_tool_that_comes_back_is_shown_again() -> None:
    body = prepared([addition(FETCH), removal("Fetch"), addition(FETCH)], [READ])
    assert texts(body).count("zebra42") == 2 and names(body) == ["Read", "Fetch"]


def test_tool_that_comes_back_by_name_may_be_called() -> None:
    by_name = change("tool_addition", {"type": "tool_reference", "name": "Read"})
    assert names(prepared([removal("Read"), by_name], [READ, FETCH])) == ["Read", "Fetch"]


def test_new_definition_of_a_shown_tool_is_shown() -> None:
    body = prepared([addition(FETCH), addition({**FETCH, "description": "okapi7"})], [READ])
    assert "okapi7" in texts(body) and body["tools"][-1]["description"] == "okapi7"


def test_forced_call_is_of_a_tool_that_was_shown() -> None:
    tools = [READ, DEFERRED, PLACEHOLDER]
    assert names(prepared([], tools, tool_choice={"type": "any"})) == ["Read"]
    assert names(prepared([reference("Fetch")], tools, tool_choice={"type": "any"})) == ["Read", "Fetch"]


@pytest.mark.parametrize("tools", [[DEFERRED], [READ, DEFERRED, SEARCH]], ids=["nothing else", "Anthropic's search"])
def test_tools_that_no_one_could_find_are_not_deferred(tools: list[Body]) -> None:
    assert "Fetch" in head(prepared([], tools))


def test_head_has_tools_as_vllm_renders_them() -> None:
    bare = {"name": "Bare", "input_schema": {"properties": {}}, "strict": True}
    kwargs = prepared([], [bare, DEFERRED])["chat_template_kwargs"]
    parameters = {"properties": {}, "type": "object"}
    function = {"name": "Bare", "description": None, "parameters": parameters, "strict": True}
    assert kwargs["tools"] == [{"type": "function", "function": function}]


def test_counted_prompt_is_the_one_that_is_sent() -> None:
    body = {"messages": [reference("Fetch")], "tools": [READ, DEFERRED]}
    sent, counted = prepare_messages(body, 4096, TRAITS), prepare_count(body, TRAITS)
    assert counted["messages"] == sent["messages"] and head(counted) == head(sent)
    first = next(tokenize_bodies(Endpoint.COUNT_TOKENS, counted))
    assert first["chat_template_kwargs"]["tools"] == sent["chat_template_kwargs"]["tools"]


def test_model_without_a_parser_gets_no_head_either() -> None:
    body = prepare_messages({"messages": [reference("Fetch")], "tools": [READ, DEFERRED]}, 4096, Traits())
    assert "chat_template_kwargs" not in body and "tools" not in body


TURNS = st.sampled_from(
    [
        reference("Fetch"),
        reference("Read"),
        addition({**FETCH, "name": "Late"}),
        removal("Late"),
        removal("Fetch"),
        {"role": "assistant", "content": "x"},
        {"role": "system", "content": "y"},
    ]
)


@given(st.lists(TURNS, max_size=8))
def test_head_and_earlier_turns_never_change(turns: list[Body]) -> None:
    tools = [READ, DEFERRED, PLACEHOLDER]
    whole = prepared(turns, tools)
    for count in range(len(turns)):
        part = prepared(turns[:count], tools)
        assert head(part) == head(whole) == ["Read"]
        assert whole["messages"][: len(part["messages"])] == part["messages"]


@pytest.mark.parametrize("block", [{}, {"tool": None}, {"tool": {"definition": {"name": 1}}}, {"tool": {"name": []}}])
@pytest.mark.parametrize("kind", ["tool_addition", "tool_removal", "tool_reference"])
def test_malformed_change_is_text(kind: str, block: Body) -> None:
    body = prepared([{"role": "system", "content": [{"type": kind, **block}]}], [READ])
    assert isinstance(body["messages"][-1]["content"], str)
