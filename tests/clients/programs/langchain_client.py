"""LangChain against the proxy, by its packages for OpenAI and for Anthropic: an answer, a stream, a tool loop."""

from __future__ import annotations

import os
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: F401  # part of what a program of theirs imports

URL, KEY, MODEL = (os.environ[f"PROXY_{name}"] for name in ("URL", "KEY", "MODEL"))


@tool  # type: ignore[untyped-decorator,unused-ignore]
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sun in {city}"


def check(model: Any) -> None:
    """Run all checks with a chat model; an assertion ends the program."""
    answer = model.invoke("SAY[hello]")
    assert answer.text == "hello" and answer.usage_metadata["total_tokens"] > 0, answer
    pieces = [piece.text for piece in model.stream("SAY[one two three]")]
    assert "".join(pieces) == "one two three", pieces
    asked = HumanMessage('CALL[weather {"city": "Paris"}]')
    bound = model.bind_tools([weather])
    called = bound.invoke([asked])
    (one,) = called.tool_calls
    assert one["args"] == {"city": "Paris"}, called
    result = ToolMessage(weather.invoke(one["args"]), tool_call_id=one["id"])
    assert bound.invoke([asked, called, result]).text


check(ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_retries=0))
check(ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_retries=0, use_responses_api=True))
check(ChatAnthropic(base_url=URL, api_key=KEY, model=MODEL, max_retries=0, max_tokens=500))
print("all right")
