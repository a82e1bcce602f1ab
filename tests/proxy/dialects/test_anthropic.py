"""Anthropic bodies as vLLM gets them."""

from __future__ import annotations

from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import prepare_count, prepare_messages
from bouchet_proxy.dialects.blocks import IMAGE_NOTE
from hypothesis import given
from hypothesis import strategies as st

TEXT_ONLY = Traits(tool_parser="hermes", max_output=8192)
VISION = Traits(tool_parser="hermes", vision=True)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def user_messages(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], **fields}


def prepared_messages(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    prepared: list[dict[str, Any]] = prepare_messages({"messages": [*turns]}, 4096, TEXT_ONLY)["messages"]
    return prepared


@pytest.mark.parametrize(
    "system", ["x-anthropic-billing-header: a", [{"type": "text", "text": "x-anthropic-billing-header: a"}]]
)
def test_billing_header_is_dropped(system: Any) -> None:
    assert not prepare_messages(user_messages("a", system=system), 4096, TEXT_ONLY).get("system")


def test_system_message_within_the_conversation_becomes_a_reminder_in_its_place() -> None:
    leading = {"role": "system", "content": "0"}
    prepared = prepared_messages(
        leading,
        {"role": "user", "content": "a"},
        {"role": "system", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": "d"},
        {"role": "developer", "content": "e"},
    )
    assert [message["role"] for message in prepared] == ["system", "user", "user", "assistant", "user"]
    assert prepared[0] == leading
    assert prepared[2]["content"] == "<system-reminder>\nb\nc\n</system-reminder>"
    assert prepared[4]["content"] == "<system-reminder>\ne\n</system-reminder>"


@given(st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=8), st.data())
def test_later_turn_extends_the_earlier_ones(roles: list[str], data: st.DataObject) -> None:
    contents = st.sampled_from(
        ["", None, "text", [], [IMAGE], [{"type": "text", "text": ""}], [{"type": "search_result"}]]
    )
    turns = [{"role": role, "content": data.draw(contents)} for role in roles]
    whole = prepared_messages(*turns)
    for count in range(len(turns)):
        part = prepared_messages(*turns[:count])
        assert whole[: len(part)] == part


def test_image_becomes_a_note_unless_the_model_has_vision() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, {"type": "text", "text": "x"}]}
    body = user_messages([IMAGE, result])
    content = prepare_messages(body, 4096, TEXT_ONLY)["messages"][0]["content"]
    assert content[0] == {"type": "text", "text": IMAGE_NOTE}
    assert [item["type"] for item in content[1]["content"]] == ["text", "text"]
    assert prepare_messages(body, 4096, VISION)["messages"][0]["content"] == [IMAGE, result]


def test_server_tool_is_dropped_with_a_note() -> None:
    body = user_messages("a", tools=[TOOL, SEARCH], tool_choice={"type": "tool", "name": "web_search"}, system="be")
    prepared = prepare_messages(body, 4096, TEXT_ONLY)
    assert prepared["tools"] == [TOOL]
    assert "tool_choice" not in prepared
    assert "web_search" in prepared["system"][-1]["text"]
    alone = prepare_messages(user_messages("a", tools=[SEARCH], tool_choice={"type": "any"}), 4096, TEXT_ONLY)
    assert "tools" not in alone


def test_no_tools_offered_asks_vllm_to_parse_none() -> None:
    """Check that an answer that looks like a call comes as text: vLLM would drop it."""
    assert prepare_messages(user_messages("a"), 4096, TEXT_ONLY)["tool_choice"] == {"type": "none"}
    assert prepare_messages(user_messages("a", tools=[]), 4096, TEXT_ONLY)["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": "f"}])
def test_tool_choice_is_kept(choice: dict[str, str]) -> None:
    body = user_messages("a", tools=[TOOL], tool_choice=choice)
    assert prepare_messages(body, 4096, TEXT_ONLY)["tool_choice"] == choice


def test_model_without_tool_parser_gets_a_note_instead_of_tools() -> None:
    prepared = prepare_messages(user_messages("a", tools=[TOOL]), 4096, Traits())
    assert "tools" not in prepared
    assert "not available" in prepared["system"][0]["text"]


def test_empty_assistant_messages_are_dropped() -> None:
    prepared = prepared_messages(
        {"role": "user", "content": None},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
    )
    assert [(m["role"], bool(m["content"])) for m in prepared] == [("user", False), ("assistant", True)]


def test_count_tokens_has_the_prompt_of_messages() -> None:
    body = user_messages(
        [IMAGE], tools=[TOOL, SEARCH], system="be", thinking={"type": "adaptive"}, max_tokens=5, stream=True
    )
    answered, counted = prepare_messages(body, 4096, TEXT_ONLY), prepare_count(body, TEXT_ONLY)
    assert counted == {key: value for key, value in answered.items() if key not in ("max_tokens", "stream")}


def test_user_message_without_blocks_is_an_empty_text() -> None:
    assert prepared_messages({"role": "user", "content": []}) == [{"role": "user", "content": ""}]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": 1', {"input": '{"a": 1'}),
        ([1], {"input": [1]}),
        (None, {}),
        ("", {}),
    ],
)
def test_input_of_a_call_is_an_object(given: object, read: dict[str, Any]) -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": given}
    turns = prepared_messages({"role": "user", "content": "x"}, {"role": "assistant", "content": [call]})
    assert turns[1]["content"] == [{**call, "input": read}]


@pytest.mark.parametrize(
    "block",
    [
        {"text": "zebra"},
        {"type": "input_text", "text": "zebra"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "zebra"}},
    ],
)
def test_text_in_a_system_block_of_any_kind_reaches_the_model(block: dict[str, Any]) -> None:
    plain = {"type": "text", "text": "be kind"}
    system = prepare_messages(user_messages("x", system=[plain, block]), 4096, TEXT_ONLY)["system"]
    assert system == [plain, {"type": "text", "text": "zebra"}]


def test_image_in_the_system_prompt_is_named() -> None:
    assert prepare_messages(user_messages("x", system=[IMAGE]), 4096, VISION)["system"][0]["text"] == IMAGE_NOTE


@pytest.mark.parametrize("kind", ["input_text", "output_text"])
def test_text_block_of_another_api_is_text(kind: str) -> None:
    (turn,) = prepared_messages({"role": "user", "content": [{"type": kind, "text": "zebra"}]})
    assert turn["content"] == [{"type": "text", "text": "zebra"}]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "text", "text": ""},
    ],
)
def test_answer_without_anything_to_read_is_dropped(block: dict[str, Any]) -> None:
    hi = {"role": "user", "content": "x"}
    assert prepared_messages(hi, {"role": "assistant", "content": [block]}, hi) == [hi, hi]
    kept = {"type": "text", "text": "a"}
    assert prepared_messages(hi, {"role": "assistant", "content": [block, kept]}, hi)[1]["content"] == [block, kept]
