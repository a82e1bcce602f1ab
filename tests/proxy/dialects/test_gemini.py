"""Gemini's dialect before and after LiteLLM's translation: paths, bodies, ids of calls."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from bouchet_proxy.backends.gemini import model_name
from bouchet_proxy.dialects.endpoints import (
    Dialect,
    Endpoint,
    GoogleTarget,
    InvalidBodyError,
    check_body,
    dialect_of,
    normalize_path,
    parse_target,
)
from bouchet_proxy.dialects.gemini import check_gemini, complete_chat, number_calls, readable_request, shows_thoughts
from bouchet_proxy.dialects.tokens import field_names
from bouchet_proxy.errors import ProxyError, context_overflow, error_body, status_for
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.dialects.bodies import ANYTHING

NAMES = sorted(
    field_names(
        "contents role parts text functionCall functionResponse inline_data inlineData mimeType data name args "
        "response tools functionDeclarations googleSearch systemInstruction generationConfig toolConfig thought "
        "messages"
    )
)
VALUES = st.recursive(
    ANYTHING | st.sampled_from(["user", "model", "image/png", "text/plain", "eA=="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
USER = {"role": "user", "parts": [{"text": "hi"}]}


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_body_is_refused_or_made_readable(given_body: dict[str, Any]) -> None:
    try:
        body = check_gemini({"contents": [USER], **given_body})
    except InvalidBodyError:
        return
    readable = readable_request(body)
    complete_chat({"messages": []}, body, stream=shows_thoughts(body))
    orjson.dumps(readable)
    assert all(content["role"] in ("user", "model") and content["parts"] for content in readable["contents"])


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1beta/models/a:generateContent", GoogleTarget("a", Endpoint.GENERATE_CONTENT)),
        ("/v1/models/a:streamGenerateContent", GoogleTarget("a", Endpoint.GENERATE_CONTENT, streams=True)),
        ("/v1alpha/models/org/A-B:countTokens", GoogleTarget("org/A-B", Endpoint.COUNT_CONTENT)),
        ("/v1/v1beta/models/a:generateContent", GoogleTarget("a", Endpoint.GENERATE_CONTENT)),
        ("/v1beta/models/a:embedContent", None),
        ("/v1beta/models/a", None),
        ("/v1/messages", None),
    ],
)
def test_parse_target_names_model_and_method(path: str, target: GoogleTarget | None) -> None:
    assert parse_target(normalize_path(path)) == target


@pytest.mark.parametrize("path", ["/v1beta/models", "/v1beta/files", "/v1/models/a:countTokens"])
def test_dialect_of_googles_paths_is_google(path: str) -> None:
    assert dialect_of(path) is Dialect.GOOGLE


def test_readable_request_reads_both_spellings_and_joins_system_parts() -> None:
    body = check_gemini(
        {
            "contents": [USER],
            "system_instruction": {"parts": [{"text": "a"}, {"text": "b"}]},
            "generation_config": {"response_schema": {"some_key": 1}},
        }
    )
    assert readable_request(body)["systemInstruction"] == {"parts": [{"text": "a\n\nb"}]}
    assert body["generationConfig"] == {"responseSchema": {"some_key": 1}}


def test_readable_request_keeps_only_functions_that_may_be_called() -> None:
    config = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["b"]}}
    tools = [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}, {"googleSearch": {}}]
    body = check_gemini({"contents": [USER], "tools": tools, "toolConfig": config})
    assert readable_request(body)["tools"] == [{"functionDeclarations": [{"name": "b"}]}]


def test_results_of_one_function_go_to_their_own_calls() -> None:
    calls = [{"functionCall": {"id": one, "name": "f", "args": {"at": one}}} for one in ("q1", "q2")]
    results = [{"functionResponse": {"id": one, "name": "f", "response": {"of": one}}} for one in ("q2", "q1")]
    unknown = {"functionResponse": {"name": "g", "response": {}}}
    turns = [USER, {"role": "model", "parts": calls}, {"role": "user", "parts": [unknown, *results]}]
    *_, last = readable_request(check_gemini({"contents": turns}))["contents"]
    assert [part["functionResponse"].get("id") for part in last["parts"]] == ["q1", "q2", None]


def test_parts_of_a_result_reach_the_model() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "eA=="}}
    result = {"name": "f", "response": {"output": "x"}, "parts": [image, {"text": "zebra"}]}
    turn = {"role": "user", "parts": [{"functionResponse": result}]}
    first, second = readable_request(check_gemini({"contents": [turn]}))["contents"]
    assert first["parts"] == [{"functionResponse": result}]
    assert second["parts"] == [{"inline_data": {"mime_type": "image/png", "data": "eA=="}}, {"text": "zebra"}]


def test_choice_of_values_is_enforced() -> None:
    config = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}}
    body = check_gemini({"contents": [USER], "generationConfig": config})
    assert complete_chat({"messages": []}, body, stream=False)["structured_outputs"] == {"choice": ["a", "b"]}


@pytest.mark.parametrize(
    ("parts", "goes_on"),
    [
        ([{"text": "The capital"}], True),
        ([{"text": "hm", "thought": True}, {"text": "The capital"}], True),
        ([{"text": "so"}, {"functionCall": {"name": "f", "args": {}}}], False),
        ([{"text": "hm", "thought": True}], False),
    ],
)
def test_text_of_the_model_at_the_end_is_continued(parts: list[Any], goes_on: bool) -> None:
    turns = [USER, {"role": "model", "parts": parts}]
    chat = complete_chat({"messages": []}, check_gemini({"contents": turns}), stream=False)
    assert (chat.get("continue_final_message"), chat.get("add_generation_prompt")) == (
        (True, False) if goes_on else (None, None)
    )
    asked = complete_chat({"messages": []}, check_gemini({"contents": [*turns, USER]}), stream=False)
    assert "continue_final_message" not in asked


def test_number_calls_gives_each_call_its_own_id() -> None:
    call: dict[str, Any] = {"id": "call_f", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result: dict[str, Any] = {"role": "tool", "tool_call_id": "call_f", "content": "x"}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [call, call]},
        result,
        result,
        {"role": "user", "content": "y"},
    ]
    numbered = number_calls([*messages, *messages[:2]])
    assert [one["id"] for one in numbered[0]["tool_calls"]] == ["call_1", "call_2"]
    assert [one["tool_call_id"] for one in numbered if one["role"] == "tool"] == ["call_1", "call_2", "call_3"]


@pytest.mark.parametrize(
    ("name", "found"), [("gemini-2.5-pro", "default"), ("Gemini-3-flash", "default"), ("tiny", "tiny")]
)
def test_model_name_takes_googles_models_for_the_default(name: str, found: str) -> None:
    assert model_name(name) == found


@pytest.mark.parametrize(
    ("status", "code", "word"), [(400, 400, "INVALID_ARGUMENT"), (529, 503, "UNAVAILABLE"), (502, 502, "INTERNAL")]
)
def test_error_body_has_googles_form(status: int, code: int, word: str) -> None:
    error = ProxyError(status, "no")
    assert error_body(Dialect.GOOGLE, error) == {"error": {"code": code, "message": "no", "status": word}}
    assert status_for(Dialect.GOOGLE, error) == code


def test_overflow_has_googles_text() -> None:
    message = error_body(Dialect.GOOGLE, context_overflow(10, 5))["error"]["message"]
    assert message == "The input token count (10) exceeds the maximum number of tokens allowed (5)."


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        (Endpoint.CHAT, {"contents": [USER]}, ":generateContent"),
        (Endpoint.MESSAGES, {"contents": [USER]}, ":generateContent"),
        (Endpoint.GENERATE_CONTENT, {"messages": []}, "/v1/chat/completions"),
    ],
)
def test_body_of_another_dialect_names_its_path(endpoint: Endpoint, body: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidBodyError, match=path):
        check_body(endpoint, body)


def test_one_object_is_read_where_google_has_a_list() -> None:
    part = {"text": "hi"}
    body = check_gemini({"system_instruction": {"parts": {"text": "cat"}}, "contents": {"parts": part}})
    assert body["contents"] == [{"parts": [part]}] and body["systemInstruction"] == {"parts": [{"text": "cat"}]}
    assert readable_request(body)["systemInstruction"] == {"parts": [{"text": "cat"}]}
    assert check_gemini({"contents": [{"role": "user", "parts": part}]})["contents"] == [USER]
