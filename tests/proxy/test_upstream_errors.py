"""Errors of vLLM and LiteLLM as the client gets them."""

from __future__ import annotations

import json
import time

import pytest
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.errors import error_body, status_for
from bouchet_proxy.upstream_errors import MAX_MESSAGE_CHARS, NO_MESSAGE, error_from_upstream, error_message
from hypothesis import given
from hypothesis import strategies as st

# of the test's thread; the expressions took seconds
MAX_CPU_S = 0.1
TOKENS = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)
CHARS = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains 900000 characters (more than "
    "524288 characters, which is the upper bound for 4096 input tokens). Please reduce the length of the input prompt."
)
WRAPPED = (
    f"litellm.BadRequestError: Hosted_vllmException - {json.dumps({'error': {'message': TOKENS}})}. LiteLLM Retried: 1"
)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "error", "error": {"type": "BadRequestError", "message": TOKENS}},
        {"error": {"message": TOKENS, "type": "BadRequestError", "code": 400}},
        {"object": "error", "message": TOKENS},
        {"error": {"message": WRAPPED}},
        {"detail": TOKENS},
    ],
)
def test_overflow_of_any_shape_is_recognized(body: object) -> None:
    error = error_from_upstream(400, json.dumps(body).encode(), "tiny")
    assert error_body(Dialect.ANTHROPIC, error)["error"] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 4097 tokens > 4096 maximum",
    }
    assert error_body(Dialect.OPENAI, error)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        {"message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"},
        {"message": "the request exceeds the available context size", "n_prompt_tokens": 5000, "n_ctx": 4096},
        {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."},
        {"message": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000"},
        {
            "message": "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 "
            "tokens. Please reduce the length of the messages."
        },
    ],
    ids=["llama.cpp", "llama.cpp before", "SGLang", "TGI", "OpenAI"],
)
def test_overflow_of_another_server_is_recognized(body: dict[str, object]) -> None:
    error = error_from_upstream(400, json.dumps({"error": body}).encode(), "tiny", Endpoint.CHAT, attached=True)
    assert error.overflow == (5000, 4096)


@pytest.mark.parametrize(
    "text",
    [
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of "
        "4999 tokens: {} tokens from the input messages and 999 tokens for the completion. Please reduce it.",
        "This model's maximum context length is 4096 tokens. However, you requested 4999 tokens ({} in the messages, "
        "999 in the completion). Please reduce the length of the messages or completion.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: {} `inputs` tokens and 999 "
        "`max_new_tokens`",
    ],
    ids=["SGLang", "OpenAI", "TGI"],
)
def test_answer_that_does_not_fit_is_one_that_claude_code_asks_to_be_shorter(text: str) -> None:
    body = json.dumps({"error": {"message": text.format(4000)}}).encode()
    error = error_from_upstream(400, body, "tiny", Endpoint.MESSAGES, attached=True)
    assert "input length and `max_tokens` exceed context limit: 4000 + 999 > 4096" in error.message
    assert error.overflow is None
    body = json.dumps({"error": {"message": text.format(4096)}}).encode()
    assert error_from_upstream(400, body, "tiny", Endpoint.MESSAGES, attached=True).overflow == (4097, 4096)


def test_overflow_in_characters_is_estimated_in_tokens() -> None:
    error = error_from_upstream(400, json.dumps({"error": {"message": CHARS}}).encode(), "tiny")
    assert error.overflow == (225000, 4096)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "litellm.APIError: Hosted_vllmException - no"}}', "no"),
        (b'{"error": {"message": "Invalid request format: litellm.APIConnectionError: X_Exception - no"}}', "no"),
        (b'{"detail": [{"loc": ["body"], "msg": "x"}]}', "{'loc': ['body'], 'msg': 'x'}"),
        (b"plain text", "plain text"),
        (b"", NO_MESSAGE),
        (b"[]", NO_MESSAGE),
        (b"{}", NO_MESSAGE),
    ],
)
def test_error_message_of_any_shape_is_found(body: bytes, message: str) -> None:
    assert error_message(body) == message


@given(st.binary(max_size=200), st.integers(100, 599))
def test_error_from_upstream_of_any_body_has_a_message(body: bytes, status: int) -> None:
    error = error_from_upstream(status, body, "tiny")
    for dialect in Dialect:
        assert status_for(dialect, error) >= 400
        assert error_body(dialect, error)["error"]["message"]


@pytest.mark.parametrize("status", [401, 403])
def test_key_rejected_by_vllm_is_not_the_clients_fault(status: int) -> None:
    assert error_from_upstream(status, b"{}", "tiny").status == 502


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail":"Not Found"}',
        b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}',
        b"404 page not found",
        b"",
        b"<!DOCTYPE html><pre>Cannot POST /v1/responses</pre>",
    ],
)
@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("endpoint", Endpoint)
def test_path_that_the_server_lacks_is_a_sentence_with_what_to_do(endpoint: Endpoint, status: int, body: bytes) -> None:
    error = error_from_upstream(status, body, "tiny", endpoint, attached=True)
    assert error.status == 400 and "tiny" in error.message and b"DOCTYPE" not in error.message.encode()


@pytest.mark.parametrize("text", ["The model `x` does not exist.", "no model x", "model 'x' not found"])
def test_model_that_the_server_lacks_is_no_missing_path(text: str) -> None:
    body = json.dumps({"error": {"message": text}}).encode()
    assert error_from_upstream(404, body, "tiny", Endpoint.RESPONSES, attached=True).message == text


@pytest.mark.parametrize(
    "text",
    [
        "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 6.",
        "Input validation error: `stop` supports up to 4 stop sequences. Given: 6",
        "stop: ensure this value has at most 4 items (type=value_error)",
        "1 validation error:\n  {'type': 'too_long', 'loc': ('body', 'stop'), "
        "'msg': 'List should have at most 4 items after validation, not 6', 'input': []}",
    ],
)
def test_limit_of_stop_strings_of_a_server_is_a_sentence(text: str) -> None:
    error = error_from_upstream(400, json.dumps({"error": {"message": text}}).encode(), "tiny", Endpoint.CHAT)
    assert (error.status, error.param) == (400, "stop")
    assert "stop: at most 4 " in error.message and "validation" not in error.message


@pytest.mark.parametrize("start", ["", "invalid temperature: "])
@pytest.mark.parametrize(
    "quoted",
    [" " * 60_000 + "x", "maximum context length is 1 tokens " * 1700, "aError: " * 7000, "LiteLLM_" * 7000],
    ids=["blanks", "overflows", "prefixes", "suffixes"],
)
def test_long_quoted_request_is_read_quickly_and_cut(start: str, quoted: str) -> None:
    body = json.dumps({"error": {"message": f"{start}{quoted}", "code": 400}}).encode()
    before = time.thread_time()
    error = error_from_upstream(400, body, "tiny")
    assert time.thread_time() - before < MAX_CPU_S
    assert error.status == 400 and len(error.message) <= MAX_MESSAGE_CHARS
