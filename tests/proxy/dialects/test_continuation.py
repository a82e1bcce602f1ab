"""Which requests can be continued, and the chat that vLLM continues."""

from __future__ import annotations

from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import prepare_messages
from bouchet_proxy.dialects.continuation import PartialAnswer, continuation_body, may_continue
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.dialects.openai import prepare_chat
from bouchet_proxy.dialects.tokens import TokenCounts

TRAITS = Traits(thinking="off", tool_parser="hermes", reasoning_parser="qwen3")
TOOL = {"name": "bash", "description": "run", "input_schema": {"type": "object"}}
USER = {"role": "user", "content": "go"}
PARTIAL = PartialAnswer("so far \n", "m", TokenCounts(output=7))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 50, "stream": True, "messages": [USER], **fields}


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, True),
        ({"tools": [TOOL]}, True),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, True),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, False),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "bash"}}, False),
        ({"output_config": {"format": {"type": "json_schema"}}}, False),
        ({"output_config": {"effort": "high"}}, True),
        ({"stream": False}, False),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, False),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]},
            False,
        ),
    ],
)
def test_may_continue_messages(fields: dict[str, Any], may: bool) -> None:
    assert may_continue(Endpoint.MESSAGES, body(**fields)) is may


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, True),
        ({"n": 1}, True),
        ({"n": 2}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"logprobs": True}, False),
        ({"tool_choice": "required"}, False),
        ({"messages": [USER, {"role": "assistant", "content": "x"}], "continue_final_message": True}, False),
    ],
)
def test_may_continue_chats(fields: dict[str, Any], may: bool) -> None:
    assert may_continue(Endpoint.CHAT, body(**fields)) is may


@pytest.mark.parametrize("endpoint", [Endpoint.RESPONSES, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS])
def test_other_endpoints_are_not_continued(endpoint: Endpoint) -> None:
    assert not may_continue(endpoint, {"stream": True, "prompt": "x", "input": "x"})


def test_message_becomes_the_chat_that_vllm_makes_of_it() -> None:
    asked = body(
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": " And kind."}],
        tools=[TOOL],
        stop_sequences=["###"],
        temperature=0.2,
        top_k=5,
        messages=[
            USER,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "bash", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]},
        ],
    )
    prepared = {**prepare_messages(asked, 4096, TRAITS), "cache_salt": "salt"}
    chat = continuation_body(Endpoint.MESSAGES, prepared, PARTIAL)
    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert chat["messages"][0]["content"] == "Be brief. And kind."
    assert chat["messages"][-1] == {"role": "assistant", "content": "so far"}
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (True, False)
    assert (chat["stop"], chat["temperature"], chat["top_k"], chat["max_tokens"]) == (["###"], 0.2, 5, 43)
    assert chat["tools"][0]["function"]["name"] == "bash" and chat["tool_choice"] == "auto"
    assert chat["chat_template_kwargs"]["enable_thinking"] is False and chat["cache_salt"] == "salt"
    assert chat["stream"] is True and chat["stream_options"] == {"include_usage": True}


def test_chat_is_continued_as_it_is() -> None:
    prepared = prepare_chat(body(seed=3), 4096, TRAITS)
    chat = continuation_body(Endpoint.CHAT, prepared, PARTIAL)
    assert {**chat, "messages": prepared["messages"], "max_tokens": 50} == {
        **prepared,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
    assert chat["max_tokens"] == 43 and prepared["messages"] == [USER], "the request itself is not changed"


def test_answer_of_white_space_begins_again() -> None:
    chat = continuation_body(Endpoint.CHAT, body(), PartialAnswer("\n", "m", TokenCounts(output=60)))
    assert chat["messages"] == [USER] and "continue_final_message" not in chat and chat["max_tokens"] == 1
