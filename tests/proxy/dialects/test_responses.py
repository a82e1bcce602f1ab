"""Bodies of `/v1/responses` as vLLM gets them: histories of other servers, and what Codex sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import NO_TOOLS_NOTE
from bouchet_proxy.dialects.blocks import IMAGE_NOTE
from bouchet_proxy.dialects.left_out import notes_for_client
from bouchet_proxy.dialects.responses import flat_name, flat_names, prepare_responses, restore_names

TRAITS = Traits(tool_parser="hermes", max_output=8192)
HI = {"type": "message", "role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
SHELL = {"type": "function", "name": "shell", "parameters": {"type": "object"}}


def prepare(*items: Any, traits: Traits = TRAITS, **fields: Any) -> dict[str, Any]:
    return prepare_responses({"input": list(items), **fields}, 4096, traits)


def given(*items: Any) -> list[Any]:
    found: list[Any] = prepare(*items)["input"]
    return found


TIDES = {
    "type": "namespace",
    "name": "mcp__tides",
    "description": "of a server",
    "tools": [{"type": "function", "name": "tide", "parameters": {"type": "object"}}],
}


def test_functions_of_a_namespace_are_offered_under_one_name() -> None:
    choice = {"type": "function", "name": "tide", "namespace": "mcp__tides"}
    call = {**CALL, "name": "tide", "namespace": "mcp__tides"}
    prepared = prepare(HI, call, tools=[SHELL, TIDES], tool_choice=choice)
    flat = {"type": "function", "name": "mcp__tides__tide", "parameters": {"type": "object"}}
    assert prepared["tools"] == [SHELL, flat] and prepared["input"][1]["name"] == "mcp__tides__tide"
    assert prepared["tool_choice"] == {"type": "function", "name": "mcp__tides__tide"}
    assert "namespace" not in prepared["input"][1] and "instructions" not in prepared
    assert notes_for_client({"input": "x", "tools": [SHELL, TIDES]}, TRAITS) == ""
    assert flat_names({"tools": [SHELL, TIDES]}) == {"mcp__tides__tide": ("mcp__tides", "tide")}
    assert flat_name("mcp__tides__", "tide") == "mcp__tides__tide" and flat_name(None, "tide") == "tide"


@pytest.mark.parametrize("inner", [{"type": "custom", "name": "patch"}, {"type": "function"}, 5, "x"])
def test_other_tools_of_a_namespace_are_left_out_with_a_note(inner: Any) -> None:
    mixed = {**TIDES, "tools": [*TIDES["tools"], inner]}
    prepared = prepare(HI, tools=[mixed])
    assert [tool["name"] for tool in prepared["tools"] if "name" in tool] == ["mcp__tides__tide"]
    for broken in ({"type": "namespace"}, {**TIDES, "tools": None}, {**TIDES, "tools": [inner]}):
        assert "tools" not in prepare(HI, tools=[broken]) and "left out" in notes_for_client(
            {"tools": [broken]}, TRAITS
        )


def test_calls_in_an_answer_have_the_names_that_the_client_knows() -> None:
    names = flat_names({"tools": [TIDES]})
    items: list[Any] = [{**CALL, "name": "mcp__tides__tide"}, {**CALL, "name": "shell"}, {"type": "message"}, 5, None]
    restore_names(items, names)
    assert (items[0]["namespace"], items[0]["name"]) == ("mcp__tides", "tide")
    assert items[1] == {**CALL, "name": "shell"}


def test_fields_that_only_openai_knows_are_dropped() -> None:
    prepared = prepare(
        HI, prompt_cache_key="k", service_tier="auto", client_metadata={}, include=["reasoning.encrypted_content"]
    )
    assert set(prepared) == {"input", "max_output_tokens", "include"} and prepared["include"] == []


def test_reasoning_of_another_server_is_left_out() -> None:
    encrypted = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
    assert given(HI, encrypted, HI) == [HI, HI]


def test_readable_reasoning_is_kept_without_what_is_encrypted() -> None:
    summary = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    (item,) = given({"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "abc"})
    assert item == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "a\nb"}],
    }


@pytest.mark.parametrize(
    "kind", ["web_search_call", "file_search_call", "computer_call", "image_generation_call", "new"]
)
def test_item_that_cannot_be_read_becomes_a_note(kind: str) -> None:
    (item,) = given({"type": kind, "id": "x", "status": "completed", "action": {"query": "q"}})
    assert item["role"] == "user" and kind in item["content"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "code_interpreter_call", "id": "c", "code": "print()", "outputs": [{"type": "logs", "logs": "zebra"}]},
        {"type": "file_search_call", "queries": ["q"], "results": [{"file_id": "f", "filename": "n", "text": "zebra"}]},
        {"type": "web_search_call", "action": {"type": "search", "query": "zebra"}},
        {"type": "compaction", "summary": "zebra", "encrypted_content": "x"},
    ],
)
def test_text_in_an_item_of_another_server_reaches_the_model(item: dict[str, Any]) -> None:
    (found,) = given(item)
    assert found["role"] == "user" and item["type"] in found["content"] and "zebra" in found["content"]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {
                "type": "message",
                "role": "assistant",
                "id": None,
                "phase": "final_answer",
                "content": [{"type": "output_text", "text": "a", "annotations": [{"url": "u"}], "logprobs": []}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a", "annotations": []}],
            },
        ),
        (
            {"type": "function_call", "id": None, "call_id": "c", "name": "f", "namespace": "n", "arguments": {"a": 1}},
            {"type": "function_call", "call_id": "c", "name": "n__f", "arguments": '{"a": 1}'},
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": None, "status": None},
            {"type": "function_call_output", "call_id": "c", "output": ""},
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": {"ok": True}},
            {"type": "function_call_output", "call_id": "c", "output": '{"ok": true}'},
        ),
        ({"role": "user", "content": "x", "internal": {}}, {"role": "user", "content": "x"}),
    ],
)
def test_fields_of_an_item_that_only_other_servers_know_are_dropped(
    item: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert given(item) == [expected]


def test_encrypted_summary_becomes_a_note() -> None:
    (item,) = given({"type": "compaction", "encrypted_content": "x"})
    assert "summary" in item["content"]


@pytest.mark.parametrize(
    ("call", "output", "name", "arguments"),
    [
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
            "apply_patch",
            {"input": "*** Begin"},
        ),
        (
            {"type": "local_shell_call", "id": "l", "call_id": "c", "action": {"command": ["ls"]}},
            {"type": "local_shell_call_output", "call_id": "c", "output": "done"},
            "local_shell",
            {"input": {"command": ["ls"]}},
        ),
    ],
)
def test_calls_of_other_tools_become_functions(
    call: dict[str, Any], output: dict[str, Any], name: str, arguments: dict[str, Any]
) -> None:
    called, answered = given(call, output)
    assert (called["type"], called["name"], json.loads(called["arguments"])) == ("function_call", name, arguments)
    assert answered == {"type": "function_call_output", "call_id": called["call_id"], "output": "done"}


def test_mcp_call_keeps_its_result() -> None:
    item = {"type": "mcp_call", "id": "m", "name": "find", "arguments": '{"a": 1}', "output": "zebra"}
    called, answered = given(item)
    assert (called["name"], called["arguments"], answered["output"]) == ("find", '{"a": 1}', "zebra")
    assert called["call_id"] == answered["call_id"] == "m"


def test_failed_mcp_call_says_so() -> None:
    _, answered = given({"type": "mcp_call", "id": "m", "name": "find", "arguments": "{}", "error": "boom"})
    assert answered["output"] == "Error: boom"


def test_developer_messages_join_the_instructions_at_the_beginning_only() -> None:
    rules = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "ask first"}]}
    prepared = prepare(rules, HI, rules, HI, instructions="be kind")
    assert prepared["instructions"] == "be kind\n\nask first"
    reminder = "<system-reminder>\nask first\n</system-reminder>"
    assert prepared["input"] == [HI, {"type": "message", "role": "user", "content": reminder}, HI]


def test_answer_of_several_parts_reaches_the_model_whole() -> None:
    parts = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}, {"type": "text", "text": "c"}]
    (item,) = given({"type": "message", "role": "assistant", "content": parts})
    assert item["content"] == [{"type": "output_text", "text": "abc", "annotations": []}]


def test_images_become_notes_in_messages_and_tool_results() -> None:
    image = {"type": "input_image", "image_url": "data:"}
    asked, called = given(
        {"role": "user", "content": [image]}, {"type": "function_call_output", "call_id": "c", "output": [image]}
    )
    note = {"type": "input_text", "text": IMAGE_NOTE}
    assert asked["content"] == [note] and called["output"] == [note]
    assert prepare({"role": "user", "content": [image]}, traits=Traits(vision=True))["input"][0]["content"] == [image]


def test_text_parts_of_chats_are_renamed() -> None:
    (item,) = given({"role": "user", "content": [{"type": "text", "text": "zebra"}]})
    assert item["content"] == [{"type": "input_text", "text": "zebra"}]


def test_tools_of_openais_servers_are_dropped_with_a_note() -> None:
    tools = [SHELL, {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}]
    prepared = prepare(HI, tools=tools, tool_choice={"type": "function", "name": "gone"})
    assert prepared["tools"] == [SHELL] and "tool_choice" not in prepared
    assert prepared["instructions"] == "These tools are not available here: web_search, apply_patch."


def test_tools_of_a_model_without_parser_are_dropped_with_a_note() -> None:
    prepared = prepare(HI, tools=[SHELL], tool_choice="auto", traits=Traits())
    assert "tools" not in prepared and prepared["instructions"] == NO_TOOLS_NOTE


@pytest.mark.parametrize(
    "item",
    [
        {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "update_file", "diff": "zebra"}},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "zebra", "outcome": {"type": "exit"}}]},
        {"type": "function_call_output", "output": [{"stdout": "zebra"}]},
        {"type": "message", "role": "user", "content": [{"type": "refusal", "refusal": "zebra"}]},
        {"type": "message", "role": "user", "content": [{"type": "thinking", "thinking": "zebra"}]},
    ],
)
def test_text_in_other_places_reaches_the_model(item: dict[str, Any]) -> None:
    (kept,) = given(item)
    text = kept.get("output") or kept.get("arguments") or kept["content"][0]["text"]
    assert isinstance(text, str) and "zebra" in text


def test_call_without_id_and_arguments_meets_its_result() -> None:
    asked, result = given({"type": "function_call", "name": "f"}, {"type": "function_call_output", "output": "x"})
    assert asked["call_id"] == result["call_id"] and asked["arguments"] == "{}"


@pytest.mark.parametrize(
    ("written", "read"), [("", {}), ('{"cmd": "ls', {"input": '{"cmd": "ls'}), ("[1]", {"input": [1]}), (None, {})]
)
@pytest.mark.parametrize("kind", ["function_call", "mcp_call"])
def test_arguments_that_are_no_object_become_one(kind: str, written: object, read: dict[str, Any]) -> None:
    called = given({"type": kind, "call_id": "c", "id": "c", "name": "f", "arguments": written})[0]
    assert json.loads(called["arguments"]) == read


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_are_offered(mode: str) -> None:
    tools = [{"type": "function", "name": name} for name in "abc"]
    choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "b"}]}
    traits = Traits(tool_parser="hermes")
    body = prepare_responses({"input": "x", "tools": tools, "tool_choice": choice}, 4096, traits)
    assert (body["tools"], body["tool_choice"]) == ([tools[1]], mode)
