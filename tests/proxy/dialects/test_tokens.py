"""Token limits in requests, and token counts in responses."""

from __future__ import annotations

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import prepare_messages
from bouchet_proxy.dialects.openai import prepare_chat, prepare_completion
from bouchet_proxy.dialects.responses import prepare_responses
from bouchet_proxy.dialects.tokens import (
    LIMIT_FIELDS,
    TokenCounts,
    clamp_tokens,
    default_tokens,
    exceeds_window,
    own_limit,
    parse_usage,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 10**6), st.sampled_from(LIMIT_FIELDS))
def test_clamp_tokens_reduces_a_limit_to_the_window(limit: int, name: str) -> None:
    assert clamp_tokens({name: limit}, 4096) == {name: min(limit, 4096)}
    assert clamp_tokens({name: limit}, None) == {name: limit}
    assert exceeds_window({name: limit}, 4096) is (limit > 4096)
    assert not exceeds_window({name: limit}, None)


def test_default_tokens_sets_the_catalogs_limit_where_there_is_none() -> None:
    assert default_tokens({}, "max_tokens", 8192, 40960) == {"max_tokens": 8192}
    assert default_tokens({}, "max_tokens", 8192, 4096) == {"max_tokens": 4096}
    assert default_tokens({"max_completion_tokens": 5}, "max_tokens", 8192, None) == {"max_completion_tokens": 5}


@pytest.mark.parametrize(
    ("usage", "counts"),
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
def test_parse_usage_of_every_dialect(usage: object, counts: tuple[int, int, int]) -> None:
    assert parse_usage(usage) == TokenCounts(*counts)


@pytest.mark.parametrize("name", LIMIT_FIELDS)
def test_limit_is_read_under_any_of_its_names(name: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    assert prepare_messages({"messages": messages, name: 7}, 4096, Traits())["max_tokens"] == 7
    assert prepare_completion({"prompt": "x", name: 7}, 4096)["max_tokens"] == 7
    assert prepare_responses({"input": "x", name: 7}, 4096, Traits())["max_output_tokens"] == 7
    chat = prepare_chat({"messages": messages, name: 7}, 4096, Traits())
    assert chat["max_completion_tokens" if name == "max_completion_tokens" else "max_tokens"] == 7
    assert own_limit({name: 7, "max_tokens": 5}, "max_tokens")["max_tokens"] == 5
