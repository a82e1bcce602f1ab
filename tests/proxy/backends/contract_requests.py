"""The contract of both backends: requests as the model gets them, and responses as the client gets them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.usage.request import session_hash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.client import (
    CHAT,
    COMPLETIONS,
    COUNT,
    HTTP,
    MESSAGES,
    RESPONSES,
    anthropic_events,
    anthropic_text,
    chat_body,
    chat_chunks,
    chat_text,
    error_of,
    get,
    post,
    wait_for_status,
)
from tests.proxy.environment import (
    ALIAS,
    KEY,
    MODEL,
    SERVING_SECRET,
    WINDOW,
    RunningProxy,
    make_deployment,
    serve_model,
)
from tests.waiting import wait_for

KEYS = "role content type text tool_use tool_result tool_use_id id name input source thinking cache_control system"
FIELDS = "messages system tools tool_choice thinking output_config metadata stop_sequences stream input instructions"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
    max_leaves=10,
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "image", "thinking", "server_tool_use", "document"])},
    optional=dict.fromkeys(["text", "content", "input", "source", "thinking", "cache_control"], JSON),
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"])},
    optional={"content": st.none() | st.text(max_size=9) | st.lists(BLOCKS, max_size=3)},
)


class RequestContract:
    """Requests that succeed."""

    @pytest.mark.parametrize("name", [ALIAS, MODEL, "default", "claude-sonnet-9-20991231", "claude-opus-4-5[1m]"])
    def test_messages_with_any_model_name_answers_with_that_name(self, proxy: RunningProxy, name: str) -> None:
        response = post(proxy, MESSAGES, chat_body("SAY[hello you]", model=name))
        assert response.status_code == 200, response.text
        assert response.json()["content"] == [{"type": "text", "text": "hello you"}]
        assert response.json()["model"] == name
        assert proxy.environment.vllm.last_body["model"] == ALIAS

    def test_messages_stream_is_legal_with_the_clients_model_name(self, proxy: RunningProxy) -> None:
        body = chat_body("SAY[one two three]", model="claude-haiku-x", stream=True)
        events = anthropic_events(post(proxy, MESSAGES, body))
        assert anthropic_text(events) == "one two three"
        assert events[0].json()["message"]["model"] == "claude-haiku-x"

    def test_chat_answers_with_the_clients_model_name(self, proxy: RunningProxy) -> None:
        response = post(proxy, CHAT, chat_body("SAY[hello you]", model=MODEL))
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"] == "hello you"
        assert response.json()["model"] == MODEL

    def test_chat_stream_has_text_and_model_name(self, proxy: RunningProxy) -> None:
        chunks = chat_chunks(post(proxy, CHAT, chat_body("SAY[one two three]", stream=True)))
        assert chat_text(chunks) == "one two three"
        assert {chunk["model"] for chunk in chunks} == {ALIAS}

    @pytest.mark.parametrize("streamed", [False, True])
    def test_completion_is_clamped_and_answered(self, proxy: RunningProxy, streamed: bool) -> None:
        body = {"model": MODEL, "prompt": "SAY[one two]", "max_tokens": 64000, "stream": streamed}
        response = post(proxy, COMPLETIONS, body)
        assert response.status_code == 200, response.text
        chunks = chat_chunks(response) if streamed else [response.json()]
        assert "".join(chunk["choices"][0]["text"] or "" for chunk in chunks) == "one two"
        assert not any("delta" in choice for chunk in chunks for choice in chunk["choices"]), "keys of a chat"
        assert {chunk["model"] for chunk in chunks} == {MODEL}
        assert proxy.environment.vllm.last_body["max_tokens"] == WINDOW

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tool_call_arguments_pass_unchanged(self, proxy: RunningProxy, streamed: bool) -> None:
        tools = [{"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}]
        text = 'SAY[look <think> here] CALL[weather {"city": "<think>Paris</think>"}]'
        response = post(proxy, MESSAGES, chat_body(text, tools=tools, stream=streamed))
        if streamed:
            deltas = [e.json()["delta"] for e in anthropic_events(response) if e.name == "content_block_delta"]
            arguments = json.loads("".join(delta.get("partial_json", "") for delta in deltas))
        else:
            arguments = response.json()["content"][1]["input"]
        assert arguments == {"city": "<think>Paris</think>"}

    def test_tools_of_a_chat_pass_unchanged(self, proxy: RunningProxy) -> None:
        inner = {"type": "object", "properties": {"strict": {"type": "boolean"}}, "additionalProperties": False}
        properties = {"strict": {"type": "boolean"}, "additionalProperties": {"type": "string"}, "inner": inner}
        schema = {"type": "object", "properties": properties, "required": ["strict"], "additionalProperties": False}
        tools = [{"type": "function", "function": {"name": "lint", "parameters": schema, "strict": True}}]
        assert post(proxy, CHAT, chat_body("SAY[ok]", tools=tools)).status_code == 200
        assert proxy.environment.vllm.last_body["tools"] == tools

    @pytest.mark.parametrize("streamed", [False, True])
    def test_think_block_is_removed(self, proxy: RunningProxy, streamed: bool) -> None:
        body = chat_body("SAY[the <think> tag] THINK[let me see, a b c]", stream=streamed)
        response = post(proxy, MESSAGES, body)
        text = anthropic_text(anthropic_events(response)) if streamed else response.json()["content"][0]["text"]
        assert text == "the <think> tag"

    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    def test_think_block_that_begins_in_the_prompt_is_removed(self, proxy: RunningProxy, path: str) -> None:
        traits = Traits(thinking="always", tool_parser="hermes")
        proxy.environment.store.create(make_deployment("thinker", "org/Thinker", slot=1, traits=traits))
        with serve_model(proxy.environment.slot_base_port + 1, "thinker"):
            wait_for_status(proxy, 200, "thinker")
            text = "SAY[hm, let me see </think>the answer]"
            whole = post(proxy, path, chat_body(text, model="thinker")).json()
            stream = post(proxy, path, chat_body(text, model="thinker", stream=True))
        if path == MESSAGES:
            assert whole["content"][0]["text"] == "the answer"
            assert anthropic_text(anthropic_events(stream)) == "the answer"
        else:
            assert whole["choices"][0]["message"]["content"] == "the answer"
            assert chat_text(chat_chunks(stream)) == "the answer"

    def test_messages_body_is_clamped_and_has_known_fields_only(self, proxy: RunningProxy) -> None:
        system = [{"type": "text", "text": "x-anthropic-billing-header: a=1"}, {"type": "text", "text": "be kind"}]
        turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]
        unknown = {"context_management": {"edits": []}, "metadata": {"user_id": "u"}, "made_up": 1}
        body = {"model": ALIAS, "max_tokens": 64000, "system": system, "messages": turns, **unknown}
        assert post(proxy, f"{MESSAGES}?beta=true", body).status_code == 200
        sent = proxy.environment.vllm.last_body
        assert sent["max_tokens"] == WINDOW
        assert sent["system"] == [{"type": "text", "text": "be kind"}]
        reminder = {"role": "user", "content": "<system-reminder>\nb\n</system-reminder>"}
        assert sent["messages"] == [turns[0], reminder, turns[2]]
        assert sent["thinking"] == {"type": "disabled"}
        assert not set(sent) & set(unknown)

    def test_chat_body_is_clamped_without_fields_that_steer_litellm(self, proxy: RunningProxy) -> None:
        steering = {"api_base": "http://127.0.0.1:9", "api_key": "x", "mock_response": "no", "fallbacks": ["a"]}
        response = post(proxy, CHAT, chat_body("SAY[yes]", max_tokens=64000, **steering))
        assert response.json()["choices"][0]["message"]["content"] == "yes"
        sent = proxy.environment.vllm.last_body
        assert sent["max_tokens"] == WINDOW
        assert not set(sent) & set(steering)

    def test_count_tokens_equals_the_usage_of_the_answer(self, proxy: RunningProxy) -> None:
        body = chat_body("one two three", system="four five")
        counted = post(proxy, COUNT, body).json()["input_tokens"]
        assert counted == post(proxy, MESSAGES, body).json()["usage"]["input_tokens"] == 5

    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_usage_is_recorded(self, proxy: RunningProxy, path: str, streamed: bool) -> None:
        session = f"{path}-{streamed}-{time.time()}"
        response = post(proxy, path, chat_body("SAY[one two three]", stream=streamed), **{"x-session-id": session})
        assert response.status_code == 200
        if path == CHAT and streamed:
            assert not any(chunk.get("usage") for chunk in chat_chunks(response)), "the client did not ask for usage"
        hashed = session_hash(session, SERVING_SECRET.encode())
        usage = proxy.environment.store.usage
        record = wait_for(lambda: next((record for record in usage.last() if record["session"] == hashed), None))
        assert record is not None
        assert (record["output"], record["status"], record["error"], record["key"]) == ("5", "200", "", "owner")
        assert int(record["input"]) > 0 and (record["first_ms"] != "") is streamed

    def test_bearer_key_is_accepted(self, proxy: RunningProxy) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        assert HTTP.post(proxy.url + COUNT, json=chat_body("x"), headers=headers).status_code == 200

    def test_model_list_has_both_dialects(self, proxy: RunningProxy) -> None:
        openai = get(proxy, "/v1/models").json()
        assert [(m["id"], m["root"], m["max_model_len"]) for m in openai["data"]] == [(ALIAS, MODEL, WINDOW)]
        anthropic = get(proxy, "/v1/models", **{"anthropic-version": "2023-06-01"}).json()
        assert [(m["type"], m["id"]) for m in anthropic["data"]] == [("model", ALIAS)]
        assert get(proxy, f"/v1/models/{MODEL}").json()["id"] == ALIAS

    def test_liveliness_needs_no_key(self, proxy: RunningProxy) -> None:
        assert HTTP.get(f"{proxy.url}/health/liveliness").status_code == 200

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        path=st.sampled_from([MESSAGES, COUNT, CHAT, RESPONSES]),
        turns=st.lists(TURNS, max_size=4),
        rest=st.dictionaries(st.sampled_from(FIELDS.split()), JSON, max_size=4),
    )
    def test_no_body_causes_an_internal_error(
        self, proxy: RunningProxy, path: str, turns: list[Any], rest: dict[str, Any]
    ) -> None:
        body = {"model": ALIAS, "max_tokens": 9, "messages": turns, "input": turns, **rest}
        response = post(proxy, path, body)
        assert "internal proxy error" not in response.text, response.text
        assert error_of(response)["message"] if response.status_code >= 400 else response.content
