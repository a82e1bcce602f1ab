"""vLLM's and pydantic's text as the client gets them: recorded from vLLM 0.32 and 0.19."""

from __future__ import annotations

import json

import pytest
from bouchet_proxy.upstream_errors import error_from_upstream
from bouchet_proxy.upstream_messages import INVALID_ANSWER, plain_message
from hypothesis import given
from hypothesis import strategies as st

LISTED = (
    "1 validation error:\n  {'type': 'missing', 'loc': 'body.tools.0.function', 'msg': 'Field required', "
    "'input': '<dict of 3 items>'}"
)
LISTED_TUPLE = (
    "2 validation errors:\n  {'type': 'missing', 'loc': ('body', 'messages', 0, 'role'), 'msg': 'Field required', "
    "'input': {'a': 1}}\n  {'type': 'value_error', 'loc': ('body',), 'msg': \"Value error, don't\", 'input': {}}"
)
UNION = "\n".join(
    [
        "4 validation errors:",
        "  {'type': 'int_type', 'loc': ('body', 'seed'), 'msg': 'Input should be a valid integer', 'input': 'x'}",
        "  {'type': 'string_type', 'loc': ('body', 'stop', 'str'), 'msg': 'Input should be a valid string'}",
        "  {'type': 'list_type', 'loc': ('body', 'stop', 'list[str]'), 'msg': 'Input should be a valid list'}",
        "  {'type': 'missing', 'loc': ('body', 'a'), 'msg': 'Field required', 'input': 1}",
        "  {'type': 'missing', 'loc': ('body', 'b'), 'msg': 'Field required', 'input': 1}",
    ]
)
STREAM = (
    "2 validation errors for ChatCompletionStreamResponse\nmodel\n  Field required [type=missing, input_value="
    "{'error': {'message': 'In...am': None, 'code': 500}}, input_type=dict]\n    For further information visit "
    "https://errors.pydantic.dev/2.14/v/missing\nchoices\n  Field required [type=missing, input_value=1]"
)
BLOCK = (
    "1 validation error for AnthropicContentBlock\ninput\n  Input should be a valid dictionary [type=dict_type, "
    "input_value='&plan} ensure{', input_type=str]\n    For further information visit https://errors.pydantic.dev/2.14"
)
REQUEST = (
    "1 validation error for ChatCompletionRequest\nstop.list[str]\n  List should have at most 4 items after "
    "validation, not 5 [type=too_long, input_value=['a'], input_type=list]"
)
PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
GRAMMAR = "Invalid grammar specification: 'triggers'"
RAW = ("pydantic", "validation error", "input_value", "--", "'loc'", "Traceback")


@pytest.mark.parametrize(
    ("text", "message", "param"),
    [
        (LISTED, "tools[0].function: is missing", "tools[0].function"),
        (LISTED_TUPLE, "messages[0].role: is missing; body: don't", "messages[0].role"),
        (UNION, "seed: input should be a valid integer; stop: input should be a valid string; a: is missing", "seed"),
        (REQUEST, "stop: at most 4 are possible with this server, not 5", "stop"),
    ],
)
def test_field_of_a_request_is_named(text: str, message: str, param: str) -> None:
    found = plain_message(text)
    assert found is not None and found.message.startswith(message) and found.param == param
    assert not found.is_answer


PLACES = "\n".join(
    [
        "3 validation errors:",
        "  {'type': 'string_type', 'loc': ('body', 'input', 'str'), 'msg': 'Input should be a valid string'}",
        "  {'type': 'string_type', 'loc': ('body', 'input', 1, 'content'), 'msg': 'Input should be a valid list'}",
        "  {'type': 'missing', 'loc': ('body', 'input', 1, 'content', 0, 'text'), 'msg': 'Field required'}",
    ]
)


@pytest.mark.parametrize(
    ("text", "message", "param"),
    [
        (PLACES, "input[1].content[0].text: is missing", "input[1].content[0].text"),
        (
            "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)",
            "top_p must be in (0, 1], got 0.0.",
            "top_p",
        ),
        ("unknown (parameter=tool_calls)", "unknown", "tool_calls"),
    ],
)
def test_only_the_innermost_place_is_named(text: str, message: str, param: str) -> None:
    found = plain_message(text)
    assert found is not None and (found.message, found.param) == (message, param)


@pytest.mark.parametrize(
    "text", ["'int' object has no attribute 'get'", "'int' object is not iterable", "Internal server error"]
)
def test_text_of_python_never_reaches_a_client(text: str) -> None:
    found = plain_message(text)
    assert found is not None and "object" not in found.message and "the model's server failed" in found.message


@pytest.mark.parametrize(("text", "hint"), [(STREAM, "retry"), (BLOCK, "not a JSON object")])
@pytest.mark.parametrize("status", [400, 500])
def test_fault_of_the_answer_is_the_servers(text: str, hint: str, status: int) -> None:
    error = error_from_upstream(status, json.dumps({"error": {"message": text}}).encode(), "tiny")
    assert (error.status, error.code) == (502, INVALID_ANSWER) and hint in error.message


@pytest.mark.parametrize(("text", "hint"), [(PARSER, "tool_parser"), (GRAMMAR, "leave out `strict`")])
def test_option_of_the_server_becomes_advice(text: str, hint: str) -> None:
    error = error_from_upstream(400, json.dumps({"error": {"message": text}}).encode(), "tiny")
    assert error.status == 400 and hint in error.message


@pytest.mark.parametrize("text", [LISTED, LISTED_TUPLE, UNION, STREAM, BLOCK, REQUEST, PARSER])
def test_message_of_the_library_never_reaches_the_client(text: str) -> None:
    error = error_from_upstream(400, json.dumps({"error": {"message": text}}).encode(), "tiny")
    assert not [word for word in RAW if word in error.message]


def test_setting_of_the_server_is_not_the_clients() -> None:
    text = "n must be at most 9, got 10. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
    found = plain_message(text)
    assert found is not None and found.message == "n must be at most 9, got 10."


@pytest.mark.parametrize("text", ["`top_logprobs` must be a positive value or -1.", "refused", ""])
def test_plain_message_stay(text: str) -> None:
    assert plain_message(text) is None


@given(st.text(alphabet="1 validation error:for\n{'loc': (0,)msg[]\"}", max_size=300))
def test_plain_message_accepts_any_text(text: str) -> None:
    found = plain_message("1 validation error:\n" + text)
    assert found is not None and found.message
