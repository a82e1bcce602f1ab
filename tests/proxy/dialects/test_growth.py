"""Preparing a large body takes time as its size: nothing in it is compared with everything else in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Endpoint, check_body
from bouchet_proxy.dialects.openai import prepare_chat
from bouchet_proxy.dialects.responses import prepare_responses
from bouchet_proxy.dialects.tokens import Body

FEW, TIMES = 1000, 8
# of one that compares each with each: TIMES * TIMES
MOST = 3 * TIMES
USER = {"role": "user", "content": "hi"}
TRAITS = Traits(tool_parser="hermes")


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


def cpu_s(endpoint: Endpoint, body: Body) -> float:
    """Return the least CPU time of some tries of this thread."""

    def measure() -> float:
        began = time.thread_time()
        check_body(endpoint, body)
        prepare = prepare_chat if endpoint is Endpoint.CHAT else prepare_responses
        prepare(body, 100_000, TRAITS)
        return time.thread_time() - began

    return min(measure() for _ in range(3))


@pytest.mark.parametrize(
    ("endpoint", "make"),
    [
        (Endpoint.CHAT, lambda count: systems(count, "a rule")),
        (Endpoint.CHAT, lambda count: systems(count, [{"type": "text", "text": "a rule"}])),
        (Endpoint.CHAT, chat_tools),
        (Endpoint.RESPONSES, responses_tools),
    ],
    ids=["system messages", "system messages of parts", "allowed tools of a chat", "allowed tools of a response"],
)
def test_time_grows_as_the_body_does(endpoint: Endpoint, make: Callable[[int], Body]) -> None:
    few, many = make(FEW), make(FEW * TIMES)
    assert cpu_s(endpoint, many) < MOST * cpu_s(endpoint, few)
