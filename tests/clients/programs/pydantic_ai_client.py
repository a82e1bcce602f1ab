"""pydantic-ai against the proxy, by OpenAI's chats and responses and by Anthropic's messages: an answer and a tool."""

from __future__ import annotations

import os
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL, KEY, NAME = (os.environ[f"PROXY_{name}"] for name in ("URL", "KEY", "MODEL"))
called: list[str] = []


def weather(city: str) -> str:
    """Return the weather of a city."""
    called.append(city)
    return f"sun in {city}"


def check(model: Any) -> None:
    """Run all checks with a model; an assertion ends the program."""
    agent = Agent(model, tools=[weather], model_settings={"max_tokens": 500})
    assert agent.run_sync("SAY[hello]").output == "hello"
    called.clear()
    done = agent.run_sync('CALL[weather {"city": "Paris"}]')
    assert called == ["Paris"] and done.output, (called, done)


openai = OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY)
for model in (
    OpenAIChatModel(NAME, provider=openai),
    OpenAIResponsesModel(NAME, provider=openai),
    AnthropicModel(NAME, provider=AnthropicProvider(base_url=URL, api_key=KEY)),
):
    check(model)
print("all right")
