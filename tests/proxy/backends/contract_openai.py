"""The contract of both backends: OpenAI's `/v1/responses` and `/v1/embeddings`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_proxy.streams.sse import parse_stream

from tests.proxy.client import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    anthropic_events,
    chat_body,
    chat_chunks,
    chat_text,
    error_of,
    post,
    wait_for_status,
)
from tests.proxy.environment import ALIAS, MODEL, WINDOW, RunningProxy, make_deployment, serve_model


class OpenAIContract:
    """Endpoints that vLLM always serves itself."""

    @pytest.mark.parametrize("given", ["SAY[hello you]", [{"role": "user", "content": "SAY[hello you]"}]])
    def test_responses_is_clamped_and_answered(self, proxy: RunningProxy, given: Any) -> None:
        body = {"model": "default", "input": given, "max_output_tokens": 64000, "made_up": 1}
        response = post(proxy, RESPONSES, body)
        assert response.status_code == 200, response.text
        assert response.json()["output"][0]["content"][0]["text"] == "hello you"
        assert response.json()["model"] == "default"
        sent = proxy.environment.vllm.last_body
        assert sent["model"] == ALIAS and sent["max_output_tokens"] == WINDOW and "made_up" not in sent

    def test_responses_stream_has_text_and_tool_call(self, proxy: RunningProxy) -> None:
        tools = [{"type": "function", "name": "shell", "parameters": {"type": "object"}}, {"type": "web_search"}]
        body = {"model": MODEL, "input": 'SAY[one two] CALL[shell {"cmd": "ls"}]', "tools": tools, "stream": True}
        response = post(proxy, RESPONSES, body)
        events = [event.json() for event in parse_stream([response.content])]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == "one two"
        assert events[0]["response"]["model"] == events[-1]["response"]["model"] == MODEL
        call = events[-1]["response"]["output"][-1]
        assert (call["name"], json.loads(call["arguments"])) == ("shell", {"cmd": "ls"})
        assert [tool["type"] for tool in proxy.environment.vllm.last_body["tools"]] == ["function"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_call_of_a_tool_in_a_namespace_has_its_two_names(self, proxy: RunningProxy, stream: bool) -> None:
        """As Codex sends the tools of an MCP server; it knows a call by namespace and name."""
        function = {"type": "function", "name": "tide", "parameters": {"type": "object"}}
        tools = [{"type": "namespace", "name": "mcp__tides", "tools": [function]}]
        given = 'SAY[so] CALL[mcp__tides__tide {"at": "sea"}] CALL[other {}]'
        response = post(proxy, RESPONSES, {"model": ALIAS, "input": given, "tools": tools, "stream": stream})
        assert [tool["name"] for tool in proxy.environment.vllm.last_body["tools"]] == ["mcp__tides__tide"]
        events = [event.json() for event in parse_stream([response.content])] if stream else []
        items = events[-1]["response"]["output"] if stream else response.json()["output"]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"] or items
        ended = [event["name"] for event in events if event["type"] == "response.function_call_arguments.done"]
        assert ended == (["tide", "other"] if stream else [])
        for found in (items, done):
            assert [(i.get("namespace"), i.get("name")) for i in found] == [
                *((None, None), ("mcp__tides", "tide"), (None, "other"))
            ]

    def test_interrupted_responses_stream_ends_with_response_failed(self, proxy: RunningProxy) -> None:
        response = post(proxy, RESPONSES, {"model": ALIAS, "input": "SAY[a b c d e] DIE[6]", "stream": True})
        last = parse_stream([response.content])[-1].json()
        assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
        assert last["response"]["error"]["code"] == "stream_interrupted"

    def test_previous_response_id_is_rejected(self, proxy: RunningProxy) -> None:
        response = post(proxy, RESPONSES, {"model": ALIAS, "input": "x", "previous_response_id": "resp_1"})
        assert response.status_code == 400 and "previous_response_id" in error_of(response)["message"]

    def test_responses_overflow_has_openais_code(self, proxy: RunningProxy) -> None:
        response = post(proxy, RESPONSES, {"model": ALIAS, "input": "w " * 5000})
        assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")

    @pytest.mark.parametrize("path", [MESSAGES, CHAT, COMPLETIONS])
    def test_all_stop_strings_reach_the_server(self, proxy: RunningProxy, path: str) -> None:
        name, stops = "stop_sequences" if path == MESSAGES else "stop", [f"stop {n}" for n in range(9)]
        body = {"model": ALIAS, "prompt": "x"} if path == COMPLETIONS else chat_body("x")
        response = post(proxy, path, {**body, name: stops})
        assert response.status_code == 200, response.text
        assert proxy.environment.vllm.last_body[name] == stops

    @pytest.mark.parametrize("n", [1, 2])
    def test_chat_without_a_token_has_the_size_of_the_prompt(self, proxy: RunningProxy, n: int) -> None:
        body = chat_body("one two SAY[hello you]", max_tokens=0, n=n)
        answer = post(proxy, CHAT, body).json()
        assert {(c["message"]["content"], c["finish_reason"]) for c in answer["choices"]} == {("", "length")}
        assert answer["usage"]["completion_tokens"] == 0 and answer["usage"]["prompt_tokens"] > 2
        assert proxy.environment.vllm.last_body["max_tokens"] == 1
        options = {"include_usage": True}
        *chunks, last = chat_chunks(post(proxy, CHAT, {**body, "stream": True, "stream_options": options}))
        assert chat_text(chunks) == "" and chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"]

    @pytest.mark.parametrize("streamed", [False, True])
    def test_completion_without_a_token_is_empty_unless_it_echoes(self, proxy: RunningProxy, streamed: bool) -> None:
        body = {"model": ALIAS, "prompt": "SAY[yes]", "max_tokens": 0, "stream": streamed}
        response = post(proxy, COMPLETIONS, body)
        (chunk,) = chat_chunks(response) if streamed else [response.json()]
        assert (chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) == ("", "length")
        assert post(proxy, COMPLETIONS, {**body, "echo": True}).status_code == 200
        assert proxy.environment.vllm.last_body["max_tokens"] == 0 and proxy.environment.vllm.last_body["echo"] is True

    @pytest.mark.parametrize("streamed", [False, True])
    def test_message_without_a_token_is_empty(self, proxy: RunningProxy, streamed: bool) -> None:
        response = post(proxy, MESSAGES, chat_body("SAY[yes]", max_tokens=0, stream=streamed))
        if streamed:
            events = anthropic_events(response)
            assert [event.name for event in events] == ["message_start", "message_delta", "message_stop"]
            assert events[1].json()["delta"]["stop_reason"] == "max_tokens"
            assert events[1].json()["usage"]["output_tokens"] == 0
        else:
            answer = response.json()
            assert (answer["content"], answer["stop_reason"]) == ([], "max_tokens")
            assert answer["usage"]["output_tokens"] == 0 and answer["usage"]["input_tokens"] > 0

    def test_tools_of_a_model_without_parser_are_left_out_in_all_dialects(self, proxy: RunningProxy) -> None:
        proxy.environment.store.create(make_deployment("plain", "org/Plain", slot=1, traits=Traits()))
        function = {"name": "f", "parameters": {"type": "object"}}
        tools: dict[str, Any] = {
            MESSAGES: {"name": "f", "input_schema": {"type": "object"}},
            CHAT: {"type": "function", "function": function},
            RESPONSES: {"type": "function", **function},
        }
        with serve_model(proxy.environment.slot_base_port + 1, "plain") as vllm:
            wait_for_status(proxy, 200, "plain")
            for path, tool in tools.items():
                given = {"input": "SAY[ok]"} if path == RESPONSES else chat_body("SAY[ok]")
                response = post(proxy, path, {**given, "model": "plain", "tools": [tool]})
                assert response.status_code == 200 and "tools were left out" in response.headers["x-bouchet-note"]
                assert "tools" not in vllm.last_body and "Tools are not available" in json.dumps(vllm.last_body)

    def test_embeddings_are_served_by_embedding_models_only(self, proxy: RunningProxy) -> None:
        response = post(proxy, EMBEDDINGS, {"model": ALIAS, "input": ["a", "b"]})
        assert (response.status_code, error_of(response)["code"]) == (400, "no_embeddings")
        proxy.environment.store.create(make_deployment("vectors", "org/Vectors", Phase.READY, 1))
        with serve_model(proxy.environment.slot_base_port + 1, "vectors", embeds=True):
            wait_for_status(proxy, 200, "vectors")
            response = post(proxy, EMBEDDINGS, {"model": "org/vectors", "input": ["a", "b"]})
        assert response.status_code == 200, response.text
        assert [line["index"] for line in response.json()["data"]] == [0, 1]
        assert response.json()["model"] == "org/vectors"
