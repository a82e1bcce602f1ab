"""Answers have the strict types of the SDKs: the newest ones refuse what their types do not allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from bouchet_core.deployments import Phase

from tests.proxy.client import wait_for_status
from tests.proxy.environment import ALIAS, KEY, RunningProxy, make_deployment

HI: Any = {"model": ALIAS, "max_tokens": 50, "messages": [{"role": "user", "content": "SAY[hello you]"}]}
CALL = 'SAY[look] CALL[f {"a": 1}] CALL[f {"a": 2}]'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = [{"name": "f", "input_schema": SCHEMA}]
CALLING: Any = {**HI, "messages": [{"role": "user", "content": CALL}]}
FUNCTIONS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
FLAT = [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": False}]
USAGE = {"include_usage": True}
COUNTED = {"model": ALIAS, "messages": HI["messages"]}
RESPONSE: Any = {"model": ALIAS, "input": "SAY[hello you]"}

Ask = Callable[[Any], Any]

# of Anthropic's SDK
MESSAGES: dict[str, Ask] = {
    "message": lambda c: c.messages.create(**HI),
    "message with calls": lambda c: c.messages.create(**CALLING, tools=TOOLS),
    "message without a token": lambda c: c.messages.create(**{**HI, "max_tokens": 0}),
    "stream": lambda c: list(c.messages.create(**HI, stream=True)),
    "stream with calls": lambda c: list(c.messages.create(**CALLING, tools=TOOLS, stream=True)),
    "stream without a token": lambda c: list(c.messages.create(**{**HI, "max_tokens": 0}, stream=True)),
    "beta message": lambda c: c.beta.messages.create(**HI, betas=["interleaved-thinking-2025-05-14"]),
    "beta stream": lambda c: list(c.beta.messages.create(**CALLING, tools=TOOLS, stream=True)),
    "count": lambda c: c.messages.count_tokens(**COUNTED),
    "beta count": lambda c: c.beta.messages.count_tokens(**COUNTED),
    "models": lambda c: list(c.models.list(limit=5, after_id="a", before_id="b")),
    "model": lambda c: c.models.retrieve(ALIAS),
    "model by a Claude name": lambda c: c.models.retrieve("claude-sonnet-4-5"),
    "beta models": lambda c: list(c.beta.models.list()),
    "beta model": lambda c: c.beta.models.retrieve(ALIAS),
}
# of OpenAI's. Its type of a streamed completion knows no chunk without a finish_reason, which its own servers send too.
CHATS: dict[str, Ask] = {
    "chat": lambda c: c.chat.completions.create(**HI),
    "chat with calls": lambda c: c.chat.completions.create(**CALLING, tools=FUNCTIONS),
    "chat without a token": lambda c: c.chat.completions.create(**{**HI, "max_tokens": 0}),
    "chat stream": lambda c: list(c.chat.completions.create(**HI, stream=True)),
    "chat stream with usage": lambda c: list(c.chat.completions.create(**HI, stream=True, stream_options=USAGE)),
    "chat stream with calls": lambda c: list(c.chat.completions.create(**CALLING, tools=FUNCTIONS, stream=True)),
    "chat stream without a token": lambda c: list(c.chat.completions.create(**{**HI, "max_tokens": 0}, stream=True)),
    "completion": lambda c: c.completions.create(model=ALIAS, prompt="SAY[a]", max_tokens=5),
    "completion without a token": lambda c: c.completions.create(model=ALIAS, prompt="SAY[a]", max_tokens=0),
    "response": lambda c: c.responses.create(**RESPONSE),
    "response with calls": lambda c: c.responses.create(model=ALIAS, input=CALL, tools=FLAT),
    "response stream": lambda c: list(c.responses.create(**RESPONSE, stream=True)),
    "response stream with calls": lambda c: list(c.responses.create(model=ALIAS, input=CALL, tools=FLAT, stream=True)),
    "input tokens": lambda c: c.responses.input_tokens.count(**RESPONSE),
    "models": lambda c: list(c.models.list()),
    "model": lambda c: c.models.retrieve(ALIAS),
}
STRICT: Any = {"api_key": KEY, "max_retries": 0, "_strict_response_validation": True}


@pytest.fixture(scope="module")
def served(proxy: RunningProxy) -> Iterator[RunningProxy]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield proxy
    proxy.environment.move(record.id, Phase.ENDED)
    wait_for_status(proxy, 404)


@pytest.mark.parametrize("name", MESSAGES)
def test_answer_has_the_types_of_anthropics_sdk(served: RunningProxy, name: str) -> None:
    with anthropic.Anthropic(base_url=served.url, **STRICT) as client:
        assert MESSAGES[name](client)


@pytest.mark.parametrize("name", CHATS)
def test_answer_has_the_types_of_openais_sdk(served: RunningProxy, name: str) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", **STRICT) as client:
        assert CHATS[name](client)
