"""Checking and preparing request bodies of all endpoints."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, check_body, prepare
from bouchet_proxy.dialects.tokens import Body
from bouchet_proxy.routing.table import Route
from hypothesis import given
from hypothesis import strategies as st

ROUTE = Route("d", "tiny", "org/Tiny", 0, "job", 4096, Traits(tool_parser="hermes", max_output=8192))
FIELDS = "model messages system thinking tools tool_choice max_tokens output_config prompt input stream"
PARTS = "role content type text image source tool_result tool_use name effort format input_schema"
NAMES = [*FIELDS.split(), *PARTS.split()]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner),
    max_leaves=12,
)
HI = {"role": "user", "content": "hi"}


@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.sampled_from(Endpoint))
def test_prepare_accepts_every_checked_body_and_does_not_change_it(body: Body, endpoint: Endpoint) -> None:
    before = copy.deepcopy(body)
    with contextlib.suppress(InvalidBodyError):
        prepare(endpoint, check_body(endpoint, body), ROUTE)
    assert body == before


@pytest.mark.parametrize(
    ("endpoint", "body", "message"),
    [
        (Endpoint.MESSAGES, {"messages": []}, "messages: at least one message is required"),
        (Endpoint.CHAT, {"messages": []}, "messages: at least one message is required"),
        (Endpoint.RESPONSES, {"input": []}, "input: at least one message is required"),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "schema": {}}},
            'response_format.json_schema: is missing; it is {"name": ..., "schema": ...}',
        ),
        (
            Endpoint.RESPONSES,
            {"input": ["x"]},
            "input: must be a string or a list of objects; a list of texts is for /v1/embeddings",
        ),
        (Endpoint.CHAT, {"messages": [HI], "max_tokens": 1.5}, "max_tokens: must be a whole number of at least 0"),
        (Endpoint.CHAT, {"messages": [HI], "max_tokens": True}, "max_tokens: must be a whole number of at least 0"),
        (Endpoint.CHAT, {"messages": [{**HI, "tool_calls": [5]}]}, "messages[0].tool_calls: must be a list of objects"),
        (
            Endpoint.CHAT,
            {"messages": [HI, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}]},
            "messages[1].tool_calls[0].function: is missing",
        ),
        (Endpoint.CHAT, {"messages": [HI], "structured_outputs": 5}, "structured_outputs: must be an object"),
        (
            Endpoint.MESSAGES,
            {"messages": [{**HI, "content": [{"type": "text"}]}]},
            "messages[0].content[0].text: is missing",
        ),
        (Endpoint.COMPLETIONS, {"prompt": "x", "stream": "yes"}, "stream: must be true or false"),
        (Endpoint.COMPLETIONS, {"prompt": "x", "structured_outputs": 5}, "structured_outputs: must be an object"),
        (Endpoint.RESPONSES, {"input": [{}]}, "input[0].role: must be one of user, assistant, system, developer"),
        (Endpoint.RESPONSES, {"input": [{"role": "user"}]}, "input[0].content: must be a string or a list of objects"),
        (
            Endpoint.RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "input[0].content[0].text: must be a string",
        ),
        (Endpoint.RESPONSES, {"input": [{"type": "function_call"}]}, "input[0].name: must be a string"),
    ],
)
def test_check_body_refuses_what_no_template_renders(endpoint: Endpoint, body: Body, message: str) -> None:
    with pytest.raises(InvalidBodyError, match=f"^{re.escape(message)}$"):
        check_body(endpoint, body)


def test_check_body_accepts_a_whole_number_in_any_form() -> None:
    assert check_body(Endpoint.CHAT, {"messages": [HI], "max_tokens": 60.0})


@pytest.mark.parametrize("endpoint", [Endpoint.MESSAGES, Endpoint.COUNT_TOKENS, Endpoint.CHAT])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "messages: must be a list"),
        ({"messages": [HI, None]}, "messages[1]: must be an object with a role and content"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role: must be a string"),
        ({"messages": [HI, {**HI, "content": 5}]}, "messages[1].content: must be a string or a list of objects"),
        (
            {"messages": [{**HI, "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text: must be a string",
        ),
        ({"tools": 1}, "tools: must be a list of objects"),
        ({"tools": [None]}, "tools: must be a list of objects"),
        ({"stream": "yes"}, "stream: must be true or false"),
        ({"model": 7}, "model: must be a string"),
    ],
)
def test_check_body_names_the_path_of_an_invalid_field(endpoint: Endpoint, fields: Body, message: str) -> None:
    with pytest.raises(InvalidBodyError, match=f"^{re.escape(message)}$"):
        check_body(endpoint, {"model": "tiny", "messages": [HI], **fields})


@pytest.mark.parametrize("endpoint", Endpoint)
def test_check_body_treats_null_as_absent(endpoint: Endpoint) -> None:
    nulls = dict.fromkeys(["system", "tools", "tool_choice", "metadata", "stop", "stream", "instructions", "model"])
    asked = {"messages": [{"role": "assistant", "content": None}], "contents": [{"parts": [{"text": "x"}]}]}
    body: dict[str, Any] = {**nulls, **asked, "input": "x", "prompt": "x"}
    assert check_body(endpoint, body) == body
