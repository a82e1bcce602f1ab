"""What is noted of a request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_proxy.dialects.usage_counts import Tokens, tokens_of
from bouchet_proxy.usage.request import session_hash, session_of

SESSION = "0f3c1d52-0d0e-4d58-9a53-0d6a5b1c2d3e"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (
            {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 2, "output_tokens": 7},
            (7, 90, 7),
        ),
        ({"prompt_tokens": 97, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 90}}, (7, 90, 7)),
        ({"prompt_tokens": 97, "completion_tokens": None, "prompt_tokens_details": None}, (97, 0, 0)),
        ({"input_tokens": 97, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 90}}, (7, 90, 7)),
        ({"prompt_tokens": "x", "prompt_tokens_details": {"cached_tokens": 5}}, (0, 0, 0)),
        (None, (0, 0, 0)),
        ("5", (0, 0, 0)),
    ],
)
def test_tokens_of_every_dialect(usage: object, tokens: tuple[int, int, int]) -> None:
    assert tokens_of(usage) == Tokens(*tokens)


@pytest.mark.parametrize(
    ("headers", "metadata"),
    [
        ({"x-claude-code-session-id": SESSION}, None),
        ({"session_id": SESSION}, {"user_id": "x"}),
        ({}, {"user_id": f"user_{'a' * 64}_account__session_{SESSION}"}),
        ({}, {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION})}),
    ],
)
def test_a_session_is_found(headers: dict[str, str], metadata: Any) -> None:
    scope = {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    assert session_of(scope, {"metadata": metadata} if metadata else {}) == SESSION


@pytest.mark.parametrize("metadata", [None, 5, [], {}, {"user_id": None}, {"user_id": "somebody"}])
def test_no_session_is_no_trouble(metadata: Any) -> None:
    assert session_of({"headers": []}, {"metadata": metadata}) == ""


def test_a_session_is_kept_as_a_hash_of_this_stack() -> None:
    one = session_hash(SESSION, b"secret")
    assert len(one) == 12 and one == session_hash(SESSION, b"secret")
    assert one != session_hash(SESSION, b"another stack")
    assert session_hash("", b"secret") == ""
