"""OpenAI bodies as vLLM gets them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import NO_TOOLS_NOTE, prepare_messages
from bouchet_proxy.dialects.blocks import IMAGE_NOTE
from bouchet_proxy.dialects.left_out import decode_text_url, notes_for_client
from bouchet_proxy.dialects.openai import prepare_chat, prepare_completion
from bouchet_proxy.dialects.responses import prepare_responses

TEXT_ONLY = Traits(tool_parser="hermes", max_output=8192)
VISION = Traits(tool_parser="hermes", vision=True)
NO_PARSER = Traits()
HI = {"role": "user", "content": "hi"}
LINT = {
    "type": "function",
    "function": {
        "name": "lint",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"strict": {"type": "boolean"}, "path": {"type": "string"}},
            "required": ["path", "strict"],
            "additionalProperties": False,
        },
    },
}


def chat(content: object, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def messages(*turns: dict[str, Any], traits: Traits = TEXT_ONLY) -> list[Any]:
    found: list[Any] = prepare_chat({"messages": list(turns)}, 4096, traits)["messages"]
    return found


def data_url(text: str, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def test_chat_keeps_known_fields_only() -> None:
    prepared = prepare_chat(chat("a", tools=[], tool_choice="auto", api_base="x", top_k=5), 4096, TEXT_ONLY)
    assert set(prepared) == {"messages", "max_tokens", "top_k"}


@pytest.mark.parametrize("field", ["priority", "request_id", "cache_salt", "kv_transfer_params", "chat_template"])
def test_chat_field_that_would_harm_other_clients_is_dropped(field: str) -> None:
    assert field not in prepare_chat(chat("a", **{field: "x"}), 4096, TEXT_ONLY)


def test_completion_keeps_known_fields_only_and_is_clamped() -> None:
    body = {"prompt": "a", "max_tokens": 10**6, "mock_response": "x"}
    assert prepare_completion(body, 4096) == {"prompt": "a", "max_tokens": 4096}


def test_completion_that_scores_a_prompt_passes_unchanged() -> None:
    body = {"prompt": ["a", "b"], "max_tokens": 1, "echo": True, "logprobs": 1, "prompt_logprobs": 0, "temperature": 0}
    assert prepare_completion(body, 4096) == body


def test_stream_options_without_stream_are_dropped() -> None:
    assert "stream_options" not in prepare_chat(chat("a", stream_options={"include_usage": True}), 4096, TEXT_ONLY)
    assert prepare_chat(chat("a", stream=True), 4096, TEXT_ONLY)["stream_options"] == {"include_usage": True}


def test_tools_pass_unchanged() -> None:
    body = chat("a", tools=[LINT], tool_choice="required", parallel_tool_calls=False)
    prepared = prepare_chat(body, 4096, TEXT_ONLY)
    assert {name: prepared[name] for name in body} == body


def test_tools_of_a_model_without_parser_are_dropped_with_a_note() -> None:
    body = chat("a", tools=[LINT], tool_choice={"type": "function", "function": {"name": "lint"}})
    prepared = prepare_chat(body, 4096, NO_PARSER)
    assert not {"tools", "tool_choice"} & set(prepared)
    assert prepared["messages"] == [{"role": "system", "content": NO_TOOLS_NOTE}, {"role": "user", "content": "a"}]
    assert "no tool_parser" in notes_for_client(body, NO_PARSER)
    assert notes_for_client(body, TEXT_ONLY) == ""


def test_tools_of_openais_servers_are_dropped_with_a_note() -> None:
    searched = {"type": "web_search", "web_search": {"name": "search"}}
    choice = {"type": "web_search"}
    system = {"role": "system", "content": "be kind"}
    body = {"messages": [system, HI], "tools": [LINT, searched], "tool_choice": choice}
    prepared = prepare_chat(body, 4096, TEXT_ONLY)
    assert prepared["tools"] == [LINT] and "tool_choice" not in prepared
    assert prepared["messages"][0]["content"] == "be kind\n\nThese tools are not available here: search."
    assert "left out" in notes_for_client(body, TEXT_ONLY)


def test_client_learns_of_tools_that_take_any_text() -> None:
    patch = {"type": "custom", "name": "patch"}
    for body in (chat("x", tools=[LINT, {"type": "custom", "custom": patch}]), {"input": "x", "tools": [patch]}):
        assert "tools that only the provider's own servers can run" in notes_for_client(body, TEXT_ONLY)
    assert notes_for_client({"messages": [HI], "tools": [patch]}, TEXT_ONLY) == ""


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "input_image", "image_url": "data:"},
        {"type": "image", "source": {}},
    ],
)
def test_chat_image_becomes_a_note_unless_the_model_has_vision(part: dict[str, Any]) -> None:
    assert messages({"role": "user", "content": [part]})[0]["content"] == [{"type": "text", "text": IMAGE_NOTE}]
    assert messages({"role": "user", "content": [part]}, traits=VISION)[0]["content"] == [part]
    assert "images were left out" in notes_for_client(chat([part]), TEXT_ONLY)


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_chat_text_part_of_any_name_reaches_the_model(kind: str) -> None:
    part = {"type": kind, "text": "zebra"}
    assert messages({"role": "user", "content": [part]})[0]["content"] == [{"type": "text", "text": "zebra"}]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"text": "zebra"}, "zebra"),
        ({"type": None, "text": "zebra"}, "zebra"),
        ({"type": "text", "text": None}, ""),
        ({"type": "document", "title": "T", "source": {"type": "text", "data": "zebra"}}, "Title: T\nzebra"),
        ({"type": "search_result", "content": [{"type": "text", "text": "zebra"}]}, "zebra"),
        ({"type": "made_up", "body": {"lines": ["zebra"]}, "id": "x"}, "zebra"),
    ],
)
def test_chat_part_with_text_reaches_the_model(part: dict[str, Any], text: str) -> None:
    assert messages({"role": "user", "content": [part]})[0]["content"] == [{"type": "text", "text": text}]


@pytest.mark.parametrize("role", ["user", "tool", "system"])
def test_chat_message_without_content_is_empty(role: str) -> None:
    assert messages({"role": role, "content": None})[0]["content"] == ""
    assert messages({"role": "assistant", "tool_calls": []})[0]["content"] == ""
    assert messages(called("{}"))[0]["content"] is None


def test_chat_functions_of_the_old_form_are_named_to_the_client() -> None:
    assert "send them as `tools`" in notes_for_client({**chat([]), "functions": [{"name": "f"}]}, TEXT_ONLY)


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
NOTE = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "zebra"}}


def result(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [*parts]}]}


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (result({"type": "image", "source": {}}), "images"),
        ({"type": "function_call_output", "output": [{"type": "input_image", "image_url": "data:"}]}, "images"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "sound and video"),
        ({"role": "user", "content": [PDF]}, "files"),
        (result(PDF), "files"),
        ({"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}, "files"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "files"),
        (
            {"role": "user", "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}]},
            "files",
        ),
    ],
)
@pytest.mark.parametrize("name", ["messages", "input"])
def test_client_learns_of_every_part_that_is_left_out(message: dict[str, Any], word: str, name: str) -> None:
    name = "input" if "output" in message else name
    assert f"{word} were left out" in notes_for_client({name: [HI, message]}, TEXT_ONLY)


def test_client_learns_nothing_of_parts_that_are_read() -> None:
    file = {"type": "file", "file": {"filename": "a.md", "file_data": data_url("x")}}
    read = {"role": "user", "content": [NOTE, file, {"type": "text", "text": "x"}, {"type": 5}, 5]}
    assert notes_for_client({"messages": [read, result(NOTE), HI]}, TEXT_ONLY) == ""
    image: dict[str, Any] = {"type": "image", "source": {}}
    assert notes_for_client({"messages": [{"role": "user", "content": [image]}, result(image)]}, VISION) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": {}},
        {"container": "c"},
        {"best_of": 3},
        {"best_of": 3, "n": 2},
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy"}},
    ],
)
def test_client_learns_of_what_no_server_here_does(fields: dict[str, Any]) -> None:
    assert "left out" in notes_for_client({**chat("x"), **fields}, TEXT_ONLY)
    assert notes_for_client({**chat("x"), "modalities": ["text"], "best_of": 1}, TEXT_ONLY) == ""


@pytest.mark.parametrize("kind", ["input_audio", "video_url", "made_up", "document"])
def test_chat_part_of_another_kind_becomes_a_note(kind: str) -> None:
    (part,) = messages({"role": "user", "content": [{"type": kind, kind: {}}]})[0]["content"]
    assert part["type"] == "text" and kind in part["text"]


def test_chat_file_of_text_reaches_the_model() -> None:
    file = {"filename": "a.md", "file_data": data_url("# zebra")}
    for data in (file["file_data"], file["file_data"].partition(",")[2], "data:text/markdown,%23%20zebra"):
        given = {"type": "file", "file": {**file, "file_data": data}}
        (part,) = messages({"role": "user", "content": [given]})[0]["content"]
        assert part == {"type": "text", "text": "a.md\n# zebra"}


@pytest.mark.parametrize(
    "given", [None, 5, "abc", "data:", data_url("x", "application/pdf"), "data:text/plain;base64,*"]
)
def test_chat_file_that_is_no_text_becomes_a_note(given: object) -> None:
    assert decode_text_url(given) is None
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": given}}
    assert "(a.pdf)" in messages({"role": "user", "content": [part]})[0]["content"][0]["text"]


def test_developer_message_becomes_a_system_message() -> None:
    assert messages({"role": "developer", "content": "be brief"}, HI) == [{"role": "system", "content": "be brief"}, HI]


def test_system_messages_at_the_beginning_become_one() -> None:
    parts = [{"type": "text", "text": "two"}]
    first, second = {"role": "system", "content": "one"}, {"role": "developer", "content": "three"}
    assert messages(first, second, HI)[0] == {"role": "system", "content": "one\n\nthree"}
    joined = messages(first, {"role": "system", "content": parts}, HI)[0]["content"]
    assert "".join(part["text"] for part in joined) == "one\n\ntwo"


def test_system_message_within_the_conversation_becomes_a_reminder() -> None:
    reminder = {"role": "user", "content": "<system-reminder>\nnow\n</system-reminder>"}
    assert messages(HI, {"role": "system", "content": "now"}, HI) == [HI, reminder, HI]


def called(arguments: object, **fields: object) -> dict[str, Any]:
    """Return an assistant's message that calls a tool with these arguments."""
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


@pytest.mark.parametrize("arguments", [{"a": "é"}, None, {}])
def test_arguments_of_a_call_become_text(arguments: dict[str, str] | None) -> None:
    (turn,) = messages(called(arguments))
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == (arguments or {})
    assert messages(called('{"a": 1}'))[0] == called('{"a": 1}')


def test_call_of_another_kind_of_tool_becomes_a_function() -> None:
    (turn,) = messages(
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]}
    )
    assert turn["tool_calls"] == called('{"input": "x"}')["tool_calls"]


def test_functions_of_the_old_form_become_calls_of_tools() -> None:
    asked, result = messages(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "zebra"},
    )
    assert asked["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert (result["role"], result["content"]) == ("tool", "zebra")
    assert result["tool_call_id"] == asked["tool_calls"][0]["id"]


def test_servers_of_tools_that_only_the_provider_reaches_are_named() -> None:
    body = {**chat([]), "mcp_servers": [{"type": "url", "url": "https://example.org/mcp", "name": "m"}]}
    assert "mcp_servers were left out" in notes_for_client(body, TEXT_ONLY)


def test_null_fields_of_a_message_are_absent() -> None:
    dumped = {"role": "assistant", "content": None, "tool_calls": None, "function_call": None, "refusal": None}
    assert messages(dumped) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", {}),
        ("  ", {}),
        ("null", {}),
        ('{"command": "ls', {"input": '{"command": "ls'}),
        ("ls -l", {"input": "ls -l"}),
        ('["ls"]', {"input": ["ls"]}),
        ("5", {"input": 5}),
        ('"ls"', {"input": "ls"}),
        ([1], {"input": [1]}),
        (True, {"input": True}),
    ],
)
def test_arguments_that_are_no_object_become_one(written: object, read: dict[str, Any]) -> None:
    (turn,) = messages(called(written))
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == read
    (older,) = messages({"role": "assistant", "function_call": {"name": "f", "arguments": written}})
    assert json.loads(older["tool_calls"][0]["function"]["arguments"]) == read


@pytest.mark.parametrize("content", [None, [{"type": "refusal", "refusal": "I will not"}]])
def test_refusal_of_the_model_stays_in_the_conversation(content: object) -> None:
    (turn,) = messages({"role": "assistant", "content": content, "refusal": "I will not"})
    assert "I will not" in json.dumps(turn["content"])


def test_part_without_a_type_is_what_it_has() -> None:
    image = {"image_url": {"url": "data:image/png;base64,aaaa"}}
    (turn,) = messages({"role": "user", "content": [image, {"file": {"filename": "a.pdf"}}]})
    assert [part["type"] for part in turn["content"]] == ["text", "text"]
    seeing = prepare_chat(chat([image]), 4096, VISION)
    assert seeing["messages"][0]["content"] == [{"type": "image_url", **image}]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("mode", "choice"), [("auto", "auto"), ("required", "required"), (None, "auto")])
def test_only_allowed_tools_are_offered(nested: bool, mode: str | None, choice: str) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "b"}}]}
    given = {"type": "allowed_tools", **({"allowed_tools": allowed} if nested else allowed)}
    body = prepare_chat({"messages": [HI], "tools": tools, "tool_choice": given}, 4096, TEXT_ONLY)
    assert (body["tools"], body["tool_choice"]) == ([tools[1]], choice)
    none = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}
    body = prepare_chat({"messages": [HI], "tools": tools, "tool_choice": none}, 4096, TEXT_ONLY)
    assert (body["tools"], body["tool_choice"]) == (tools, "none")


@pytest.mark.parametrize("top_p", [0, 0.0])
def test_least_top_p_of_the_dialect_is_served(top_p: float) -> None:
    for body in (
        prepare_chat({"messages": [HI], "top_p": top_p}, 4096, TEXT_ONLY),
        prepare_completion({"prompt": "x", "top_p": top_p}, 4096),
        prepare_responses({"input": "x", "top_p": top_p}, 4096, TEXT_ONLY),
        prepare_messages({"messages": [HI], "top_p": top_p}, 4096, TEXT_ONLY),
    ):
        assert 0 < body["top_p"] < 0.001
