"""No body makes a rule fail: it is refused with the path of what is wrong, or prepared for the model."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, check_body, prepare
from bouchet_proxy.dialects.tokenize import prompt_end_body, tokenize_bodies
from bouchet_proxy.dispatch import wants_tools
from bouchet_proxy.routing.affinity import conversation_id
from bouchet_proxy.routing.table import Route
from bouchet_proxy.usage.request import find_session
from hypothesis import example, given
from hypothesis import strategies as st

from tests.proxy.dialects.bodies import BODIES

TRAITS = [
    Traits(tool_parser="hermes", thinking="off", reasoning_parser="qwen3", vision=True),
    Traits(tool_parser="hermes", thinking="on"),
    Traits(),
]
TOOL = {"name": "a", "input_schema": {"type": "object"}}
RESULT = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": ["text"], "text": "a"}]}


@given(st.sampled_from(Endpoint), BODIES, st.sampled_from(TRAITS))
@example(Endpoint.MESSAGES, {"messages": [], "tools": [{**TOOL, "name": {}}]}, TRAITS[0])
@example(Endpoint.MESSAGES, {"messages": [], "tools": [TOOL], "tool_choice": {"type": "tool", "name": []}}, TRAITS[0])
@example(Endpoint.MESSAGES, {"messages": [{"role": "user", "content": [RESULT]}]}, TRAITS[0])
def test_body_is_refused_or_prepared(endpoint: Endpoint, given_body: dict[str, Any], traits: Traits) -> None:
    try:
        body = check_body(endpoint, given_body)
    except InvalidBodyError:
        return
    session = find_session({"headers": []}, body)
    conversation_id(session, body)
    wants_tools(endpoint, body)
    prepared = prepare(endpoint, body, Route("d1", "tiny", "org/Tiny", 0, "job", 4096, traits))
    orjson.dumps([prepared, *tokenize_bodies(endpoint, prepared), prompt_end_body(prepared)])


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tools": [{**TOOL, "name": {}}]}, "tools[0].name"),
        ({"tools": [TOOL, {**TOOL, "type": 5}]}, "tools[1].type"),
        ({"tool_choice": {"type": "tool", "name": []}}, "tool_choice.name"),
        ({"system": [{"type": "text", "text": []}]}, "system[0].text"),
        ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{**RESULT, "content": [5]}]}]}, "messages[0].content[0].content"),
    ],
)
def test_body_of_another_shape_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidBodyError) as caught:
        check_body(Endpoint.MESSAGES, {"messages": [], **fields})
    assert str(caught.value).startswith(f"{path}: must be ")
