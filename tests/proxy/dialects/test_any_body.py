"""No body makes a rule fail: it is refused with the path of what is wrong, or prepared for the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, check_body, prepare
from bouchet_proxy.dialects.gemini import readable_request
from bouchet_proxy.dialects.tokenize import prompt_end_body, tokenize_bodies
from bouchet_proxy.dialects.tokens import Body
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


# time

FEW, TIMES = 1000, 8
# of one that compares each with each: TIMES * TIMES
MOST = 3 * TIMES
KINDS = ("function", "web_search")
USER = {"role": "user", "content": "hi"}


def systems(count: int, content: Any) -> Body:
    return {"model": "m", "messages": [*({"role": "system", "content": content} for _ in range(count)), USER]}


def chat_tools(count: int) -> Body:
    tools = [{"type": "function", "function": {"name": f"f{n}"}} for n in range(count)]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}
    return {"model": "m", "messages": [USER], "tools": tools, "tool_choice": allowed}


def responses_tools(count: int) -> Body:
    tools = [{"type": "function", "name": f"f{n}", "parameters": {}} for n in range(count)]
    return {
        "model": "m",
        "input": "hi",
        "tools": tools,
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": tools},
    }


def mixed_tools(count: int) -> Body:
    tools = [{"type": kind, "name": f"f{n}", "function": {"name": f"f{n}"}} for n in range(count) for kind in KINDS]
    return {"model": "m", "messages": [USER], "tools": tools}


def namespace(count: int) -> Body:
    tools = [{"type": kind, "name": f"f{n}", "parameters": {}} for n in range(count) for kind in KINDS]
    return {"model": "m", "input": "hi", "tools": [{"type": "namespace", "name": "mcp__", "tools": tools}]}


def cpu_s(endpoint: Endpoint, body: Body) -> float:
    """Return the least CPU time of some tries of this thread."""

    def measure() -> float:
        began = time.thread_time()
        check_body(endpoint, body)
        prepare(endpoint, body, Route("d1", "tiny", "org/Tiny", 0, "job", 4096, TRAITS[1]))
        return time.thread_time() - began

    return min(measure() for _ in range(3))


@pytest.mark.parametrize(
    ("endpoint", "make"),
    [
        (Endpoint.CHAT, lambda count: systems(count, "a rule")),
        (Endpoint.CHAT, lambda count: systems(count, [{"type": "text", "text": "a rule"}])),
        (Endpoint.CHAT, chat_tools),
        (Endpoint.RESPONSES, responses_tools),
        (Endpoint.CHAT, mixed_tools),
        (Endpoint.RESPONSES, namespace),
    ],
    ids=["systems", "systems of parts", "allowed in chat", "allowed in responses", "mixed in chat", "namespace"],
)
def test_time_grows_as_the_body_does(endpoint: Endpoint, make: Callable[[int], Body]) -> None:
    few, many = make(FEW), make(FEW * TIMES)
    assert cpu_s(endpoint, many) < MOST * cpu_s(endpoint, few)


def test_allowed_functions_of_gemini_are_found_as_fast() -> None:
    def chosen_s(count: int) -> float:
        names = [f"f{n}" for n in range(count)]
        calling = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": names}}
        functions = [{"functionDeclarations": [{"name": name} for name in names]}]
        body = {"contents": [{"parts": [{"text": "hi"}]}], "tools": functions, "toolConfig": calling}

        def measure() -> float:
            began = time.thread_time()
            assert len(readable_request(body)["tools"][0]["functionDeclarations"]) == count
            return time.thread_time() - began

        return min(measure() for _ in range(3))

    assert chosen_s(FEW * TIMES) < MOST * chosen_s(FEW)
