"""OpenAI bodies as vLLM gets them."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.openai import prepare_chat, prepare_completion

TEXT_ONLY = Traits(tool_parser="hermes", max_output=8192)
VISION = Traits(tool_parser="hermes", vision=True)


def chat(content: object, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def test_chat_keeps_known_fields_only() -> None:
    prepared = prepare_chat(chat("a", tools=[], tool_choice="auto", api_base="x", top_k=5), 4096, TEXT_ONLY)
    assert set(prepared) == {"messages", "max_tokens", "top_k"}


def test_completion_keeps_known_fields_only_and_is_clamped() -> None:
    body = {"prompt": "a", "max_tokens": 10**6, "mock_response": "x"}
    assert prepare_completion(body, 4096) == {"prompt": "a", "max_tokens": 4096}


def test_chat_image_becomes_a_note_unless_the_model_has_vision() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    assert prepare_chat(chat([part]), 4096, TEXT_ONLY)["messages"][0]["content"][0]["type"] == "text"
    assert prepare_chat(chat([part]), 4096, VISION)["messages"][0]["content"] == [part]
