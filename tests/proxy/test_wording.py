from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.errors import Failure, error_body, from_upstream, not_ready, said, status_in
from bouchet_proxy.routing.table import Waiting
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
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
def test_an_overflow_in_every_shape(body: object) -> None:
    failure = from_upstream(400, json.dumps(body).encode(), "tiny")
    assert error_body(Dialect.ANTHROPIC, failure)["error"] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 4097 tokens > 4096 maximum",
    }
    assert error_body(Dialect.OPENAI, failure)["error"]["code"] == "context_length_exceeded"


def test_an_overflow_counted_in_characters() -> None:
    failure = from_upstream(400, json.dumps({"error": {"message": CHARS}}).encode(), "tiny")
    assert failure.overflow == (225000, 4096)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "litellm.APIError: Hosted_vllmException - no"}}', "no"),
        (b'{"error": {"message": "Invalid request format: litellm.APIConnectionError: X_Exception - no"}}', "no"),
        (b'{"detail": [{"loc": ["body"], "msg": "x"}]}', "{'loc': ['body'], 'msg': 'x'}"),
        (b"plain words", "plain words"),
        (b"", "the model's server gave no reason"),
        (b"[]", "the model's server gave no reason"),
        (b"{}", "the model's server gave no reason"),
    ],
)
def test_the_sentence_in_it(body: bytes, words: str) -> None:
    assert said(body) == words


@given(st.binary(max_size=200), st.integers(100, 599))
def test_no_answer_breaks_it(body: bytes, status: int) -> None:
    failure = from_upstream(status, body, "tiny")
    for dialect in Dialect:
        assert status_in(dialect, failure) >= 400
        assert error_body(dialect, failure)["error"]["message"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_the_clients_fault(status: int) -> None:
    assert from_upstream(status, b"{}", "tiny").status == 502


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_has_words(phase: Phase) -> None:
    waiting = Waiting("tiny", phase, "because", "", NOW + timedelta(hours=3))
    failure = not_ready(waiting, NOW)
    assert failure.status == 529 and failure.retry_after_s
    assert "tiny is" in failure.message and "because" in failure.message


def test_the_estimate_in_words() -> None:
    failure = not_ready(Waiting("tiny", Phase.QUEUED, "Priority", "", NOW + timedelta(minutes=12)), NOW)
    assert failure.message == "tiny is queued: Priority; Slurm expects it to start at 12:12 UTC (in about 12 min)"


def test_openai_knows_no_529() -> None:
    assert status_in(Dialect.OPENAI, Failure(529, "x")) == 503
    assert status_in(Dialect.ANTHROPIC, Failure(529, "x")) == 529
