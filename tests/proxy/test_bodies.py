from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import NO_IMAGES, prepare_count, prepare_messages
from bouchet_proxy.dialects.endpoints import BadBodyError, Endpoint, check_body, prepare
from bouchet_proxy.dialects.openai import prepare_chat, prepare_completion
from bouchet_proxy.dialects.token_limits import Body, clamp_tokens, default_tokens
from bouchet_proxy.routing.table import Route
from hypothesis import given
from hypothesis import strategies as st

BILLED = "x-anthropic-billing-header: a"
TEXT_ONLY = Traits(tool_parser="hermes", max_output=8192)
SEEING = Traits(tool_parser="hermes", vision=True)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
ROUTE = Route("d", "tiny", "org/Tiny", 0, "job", 4096, TEXT_ONLY)
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
TOOL = {"name": "f", "input_schema": {"type": "object"}}

FIELDS = "model messages system thinking tools tool_choice max_tokens output_config prompt input stream"
PARTS = "role content type text image source tool_result tool_use name effort format input_schema"
WORDS = FIELDS.split() + PARTS.split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner),
    max_leaves=12,
)
WORDS = [
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "image",
    "source",
    "tool_result",
    "tool_use",
    "input",
    "system",
    "thinking",
    "tools",
    "tool_choice",
    "name",
    "max_tokens",
    "output_config",
    "effort",
    "format",
    "input_schema",
    "prompt",
    "input",
    "stream",
]


def messages(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": turn} for turn in turns], **fields}


@given(st.dictionaries(st.sampled_from(WORDS), JSON), st.sampled_from(Endpoint))
def test_no_body_breaks_a_rule_or_is_changed(body: dict[str, Any], endpoint: Endpoint) -> None:
    before = copy.deepcopy(body)
    with contextlib.suppress(BadBodyError):
        prepare(endpoint, check_body(endpoint, body), ROUTE)
    assert body == before


HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("endpoint", [Endpoint.MESSAGES, Endpoint.COUNT_TOKENS, Endpoint.CHAT])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": None}, "messages: must be a list"),
        ({"messages": [HI, None]}, "messages[1]: must be an object with a role and content"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role: must be text"),
        ({"messages": [HI, {**HI, "content": 5}]}, "messages[1].content: must be text or a list of objects"),
        ({"messages": [{**HI, "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text: must be text"),
        ({"tools": 1}, "tools: must be a list of objects"),
        ({"tools": [None]}, "tools: must be a list of objects"),
        ({"stream": "yes"}, "stream: must be true or false"),
        ({"model": 7}, "model: must be text"),
    ],
)
def test_a_field_of_another_shape_is_named_by_its_place(endpoint: Endpoint, fields: Body, words: str) -> None:
    with pytest.raises(BadBodyError, match=f"^{re.escape(words)}$"):
        check_body(endpoint, {"model": "tiny", "messages": [HI], **fields})


@pytest.mark.parametrize("endpoint", Endpoint)
def test_null_is_as_good_as_absent(endpoint: Endpoint) -> None:
    nothing = dict.fromkeys(["system", "tools", "tool_choice", "metadata", "stop", "stream", "instructions", "model"])
    body = {**nothing, "messages": [{"role": "assistant", "content": None}], "input": "x"}
    assert check_body(endpoint, body) == body


@given(st.integers(1, 10**6), st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens"]))
def test_a_limit_never_exceeds_the_window_and_else_stays(limit: int, word: str) -> None:
    assert clamp_tokens({word: limit}, 4096) == {word: min(limit, 4096)}
    assert clamp_tokens({word: limit}, None) == {word: limit}


def test_a_missing_limit_is_the_catalogs() -> None:
    assert default_tokens({}, "max_tokens", 8192, 40960) == {"max_tokens": 8192}
    assert default_tokens({}, "max_tokens", 8192, 4096) == {"max_tokens": 4096}
    assert default_tokens({"max_completion_tokens": 5}, "max_tokens", 8192, None) == {"max_completion_tokens": 5}


@pytest.mark.parametrize(
    "system", ["x-anthropic-billing-header: a", [{"type": "text", "text": "x-anthropic-billing-header: a"}]]
)
def test_the_billing_header_goes(system: Any) -> None:
    assert not prepare_messages(messages("a", system=system), 4096, TEXT_ONLY).get("system")


def test_inline_system_messages_stay_where_they_are_as_reminders() -> None:
    leading = {"role": "system", "content": "0"}
    turns = [
        leading,
        {"role": "user", "content": "a"},
        {"role": "system", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": "d"},
        {"role": "developer", "content": "e"},
    ]
    prepared = prepare_messages({"messages": turns}, 4096, TEXT_ONLY)["messages"]
    assert [message["role"] for message in prepared] == ["system", "user", "user", "assistant", "user"]
    assert prepared[0] == leading
    assert prepared[2]["content"] == "<system-reminder>\nb\nc\n</system-reminder>"
    assert prepared[4]["content"] == "<system-reminder>\ne\n</system-reminder>"


@given(st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=8), st.data())
def test_a_later_turn_extends_the_earlier_ones(roles: list[str], data: st.DataObject) -> None:
    blocks = st.sampled_from(
        ["", None, "text", [], [IMAGE], [{"type": "text", "text": ""}], [{"type": "search_result"}]]
    )
    turns = [{"role": role, "content": data.draw(blocks)} for role in roles]
    whole = prepare_messages({"messages": turns}, 4096, TEXT_ONLY)["messages"]
    for upto in range(len(turns)):
        part = prepare_messages({"messages": turns[:upto]}, 4096, TEXT_ONLY)["messages"]
        assert whole[: len(part)] == part


def test_images_become_a_note_unless_the_model_sees() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, {"type": "text", "text": "x"}]}
    body = messages([IMAGE, result])
    blind = prepare_messages(body, 4096, TEXT_ONLY)["messages"][0]["content"]
    assert blind[0] == {"type": "text", "text": NO_IMAGES}
    assert [item["type"] for item in blind[1]["content"]] == ["text", "text"]
    assert prepare_messages(body, 4096, SEEING)["messages"][0]["content"] == [IMAGE, result]
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    assert prepare_chat(messages([part]), 4096, TEXT_ONLY)["messages"][0]["content"][0]["type"] == "text"
    assert prepare_chat(messages([part]), 4096, SEEING)["messages"][0]["content"] == [part]


def test_server_tools_go_with_a_note() -> None:
    body = messages("a", tools=[TOOL, SEARCH], tool_choice={"type": "tool", "name": "web_search"}, system="be")
    prepared = prepare_messages(body, 4096, TEXT_ONLY)
    assert prepared["tools"] == [TOOL]
    assert "tool_choice" not in prepared
    assert "web_search" in prepared["system"][-1]["text"]
    alone = prepare_messages(messages("a", tools=[SEARCH], tool_choice={"type": "any"}), 4096, TEXT_ONLY)
    assert not {"tools", "tool_choice"} & set(alone)


def test_tools_that_a_search_has_found_are_named_in_words() -> None:
    found = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "f"}]}
    prepared = prepare_messages(messages([found], tools=[{**TOOL, "defer_loading": True}]), 4096, TEXT_ONLY)
    assert prepared["tools"] == [TOOL]
    assert prepared["messages"][0]["content"][0]["content"] == [_said("The tool f can be called.")]


def _said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": "f"}])
def test_a_tool_choice_survives(choice: dict[str, str]) -> None:
    assert prepare_messages(messages("a", tools=[TOOL], tool_choice=choice), 4096, TEXT_ONLY)["tool_choice"] == choice


def test_a_model_without_tools_is_told_so() -> None:
    prepared = prepare_messages(messages("a", tools=[TOOL]), 4096, Traits())
    assert "tools" not in prepared
    assert "not available" in prepared["system"][0]["text"]


def test_empty_and_null_content() -> None:
    turns = [
        {"role": "user", "content": None},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
    ]
    prepared = prepare_messages({"messages": turns}, 4096, TEXT_ONLY)["messages"]
    assert [(m["role"], bool(m["content"])) for m in prepared] == [("user", False), ("assistant", True)]


def test_counting_makes_the_prompt_that_answering_makes() -> None:
    body = messages(
        [IMAGE], tools=[TOOL, SEARCH], system="be", thinking={"type": "adaptive"}, max_tokens=5, stream=True
    )
    answered, counted = prepare_messages(body, 4096, TEXT_ONLY), prepare_count(body, TEXT_ONLY)
    assert counted == {key: value for key, value in answered.items() if key not in ("max_tokens", "stream")}


def test_openai_fields() -> None:
    prepared = prepare_chat(messages("a", tools=[], tool_choice="auto", api_base="x", top_k=5), 4096, TEXT_ONLY)
    assert set(prepared) == {"messages", "max_tokens", "top_k"}
    assert prepare_completion({"prompt": "a", "max_tokens": 10**6, "mock_response": "x"}, 4096) == {
        "prompt": "a",
        "max_tokens": 4096,
    }
