"""The contract of both backends: every error in the client's dialect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, LaunchRequest, Phase

from tests.proxy.client import (
    CHAT,
    COUNT,
    HTTP,
    MESSAGES,
    anthropic_events,
    chat_body,
    chat_chunks,
    error_of,
    get,
    post,
    wait_for_status,
)
from tests.proxy.environment import ALIAS, WINDOW, RunningProxy, make_deployment
from tests.waiting import wait_for


class ErrorContract:
    """Requests that fail."""

    @pytest.mark.parametrize("path", [MESSAGES, COUNT, CHAT, "/v1/models"])
    @pytest.mark.parametrize("headers", [{}, {"x-api-key": "no"}, {"authorization": "Bearer no"}])
    def test_wrong_key_is_rejected(self, proxy: RunningProxy, path: str, headers: dict[str, str]) -> None:
        method = "GET" if path == "/v1/models" else "POST"
        body = None if method == "GET" else chat_body("x")
        response = HTTP.request(method, proxy.url + path, json=body, headers=headers)
        assert response.status_code == 401
        assert error_of(response)["type"] == "authentication_error"
        assert (response.json().get("type") == "error") == path.startswith(MESSAGES)

    def test_overflow_has_the_message_that_claude_code_expects(self, proxy: RunningProxy) -> None:
        response = post(proxy, MESSAGES, chat_body("w " * 5000, stream=True))
        assert response.status_code == 400
        assert error_of(response) == {
            "type": "invalid_request_error",
            "message": f"prompt is too long: 5001 tokens > {WINDOW} maximum",
        }

    def test_overflow_in_chat_has_openais_code(self, proxy: RunningProxy) -> None:
        response = post(proxy, CHAT, chat_body("w " * 5000))
        assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")

    @pytest.mark.parametrize("length", [WINDOW + 400, 3 * WINDOW])
    def test_overflow_has_the_exact_prompt_size(self, proxy: RunningProxy, length: int) -> None:
        turns = [{"role": "user", "content": "w " * length}]
        body = chat_body("", messages=turns, system="be kind")
        response = post(proxy, MESSAGES, body)
        assert response.status_code == 400
        assert error_of(response)["message"] == f"prompt is too long: {length + 3} tokens > {WINDOW} maximum"
        assert post(proxy, COUNT, body).json() == {"input_tokens": length + 3}
        message = error_of(post(proxy, CHAT, chat_body("", messages=turns)))["message"]
        assert f"maximum context length is {WINDOW} tokens" in message and f"resulted in {length + 1} tokens" in message

    @pytest.mark.parametrize(
        ("upstream", "anthropic", "kind", "openai"),
        [
            (400, 400, "invalid_request_error", 400),
            (422, 422, "invalid_request_error", 422),
            (503, 529, "overloaded_error", 503),
            (500, 500, "api_error", 500),
        ],
    )
    def test_upstream_error_has_the_status_of_the_dialect(
        self, proxy: RunningProxy, upstream: int, anthropic: int, kind: str, openai: int
    ) -> None:
        response = post(proxy, MESSAGES, chat_body(f"REFUSE[{upstream}]"))
        assert (response.status_code, error_of(response)["type"]) == (anthropic, kind)
        assert f"refused with {upstream}" in error_of(response)["message"]
        assert post(proxy, CHAT, chat_body(f"REFUSE[{upstream}]")).status_code == openai

    def test_interrupted_messages_stream_ends_with_an_error(self, proxy: RunningProxy) -> None:
        # a forced tool: the answer cannot be continued
        forced = {"tools": [{"name": "bash", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}}
        response = post(proxy, MESSAGES, chat_body("SAY[a b c d e f] DIE[5]", stream=True, **forced))
        if response.status_code == 200:
            assert anthropic_events(response)[-1].name == "error"
        else:
            assert (response.status_code, error_of(response)["type"]) == (529, "overloaded_error")

    def test_interrupted_chat_stream_ends_with_an_error(self, proxy: RunningProxy) -> None:
        response = post(proxy, CHAT, chat_body("SAY[a b c d e f] DIE[5]", stream=True, logprobs=True))
        if response.status_code == 200:
            assert "error" in chat_chunks(response)[-1]
        else:
            assert response.status_code == 503

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"nope",
            b"[]",
            b"{}",
            b'{"messages": 5}',
            b'{"model": 5, "messages": []}',
            b'{"messages": [], "max_tokens": "a"}',
            b'{"messages": [], "max_tokens": -1}',
        ],
    )
    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    def test_invalid_body_is_a_bad_request(self, proxy: RunningProxy, path: str, body: bytes) -> None:
        response = post(proxy, path, body)
        assert response.status_code == 400, response.text
        assert error_of(response)["message"]

    @pytest.mark.parametrize("path", [MESSAGES, COUNT])
    def test_thread_is_rejected_with_the_code_that_sdks_expect(self, proxy: RunningProxy, path: str) -> None:
        response = post(proxy, path, chat_body("x", thread={"type": "create"}))
        assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
        assert error_of(response)["details"]["error_code"] == "thread_unsupported_request"

    def test_body_above_the_limit_is_rejected(self, proxy: RunningProxy) -> None:
        response = post(proxy, MESSAGES, b"x" * (65 << 20))
        assert (response.status_code, error_of(response)["type"]) == (413, "request_too_large")

    @pytest.mark.parametrize(
        "path", ["/ui/", "/key/generate", "/config/yaml", "/model/info", "/v1/files", "/openapi.json"]
    )
    def test_litellms_own_paths_are_not_served(self, proxy: RunningProxy, path: str) -> None:
        assert get(proxy, path).status_code == 404
        assert post(proxy, path, {}).status_code == 404

    def test_unknown_model_lists_running_models_and_catalog(self, proxy: RunningProxy) -> None:
        response = post(proxy, MESSAGES, chat_body("x", model="gpt-99"))
        assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error")
        assert ALIAS in error_of(response)["message"] and "catalog" in error_of(response)["message"]

    def test_no_model_running_is_overloaded(self, proxy: RunningProxy, deployment: Deployment) -> None:
        proxy.environment.move(deployment.id, Phase.ENDED)
        wait_for(lambda: post(proxy, COUNT, chat_body("x")).status_code != 200)
        for name in ("default", "claude-sonnet-4-5"):
            response = post(proxy, MESSAGES, chat_body("x", model=name))
            assert (response.status_code, error_of(response)["type"]) == (529, "overloaded_error")
            assert "bouchet launch" in error_of(response)["message"]
        assert post(proxy, CHAT, chat_body("x", model="default")).status_code == 503
        assert post(proxy, MESSAGES, chat_body("x")).status_code == 404

    def test_queued_model_reports_reason_and_estimate(self, proxy: RunningProxy) -> None:
        start = datetime.now(UTC) + timedelta(minutes=12)
        queued = make_deployment("later", "org/Later", Phase.QUEUED, 1, reason="all GPUs are in use (Resources)")
        assert queued.job is not None
        job = queued.job.model_copy(update={"start_estimate": start})
        proxy.environment.store.create(queued.model_copy(update={"jobs": (job,)}))
        wait_for_status(proxy, 529, "later")
        response = post(proxy, MESSAGES, chat_body("x", model="later", stream=True))
        message = error_of(response)["message"]
        assert error_of(response)["type"] == "overloaded_error"
        assert int(response.headers["retry-after"]) > 0
        assert "later is queued: all GPUs are in use (Resources)" in message and "12 min" in message
        assert post(proxy, CHAT, chat_body("x", model="later")).status_code == 503

    def test_tier_leads_to_the_deployment_launched_for_it(self, proxy: RunningProxy) -> None:
        request = LaunchRequest(model="org/Haiku", serve_as=("haiku",))
        proxy.environment.store.create(make_deployment("small", "org/Haiku", Phase.STARTING, 2, request=request))
        wait_for_status(proxy, 529, "claude-3-5-haiku-20241022")
        assert "small is starting" in error_of(post(proxy, MESSAGES, chat_body("x", model="haiku")))["message"]
        assert post(proxy, MESSAGES, chat_body("x", model="claude-opus-4-8")).status_code == 200

    def test_slot_without_server_is_overloaded(self, proxy: RunningProxy) -> None:
        proxy.environment.store.create(make_deployment("gone", "org/Gone", Phase.READY, 3))
        wait_for_status(proxy, 529, "gone")
        response = post(proxy, MESSAGES, chat_body("x", model="gone"))
        assert (response.status_code, error_of(response)["type"]) == (529, "overloaded_error")
        assert "cannot be reached" in error_of(response)["message"]
        assert post(proxy, CHAT, chat_body("x", model="gone")).status_code == 503
