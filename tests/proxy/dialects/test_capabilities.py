"""Claude Code's contract for gateways: one row for each class of rejected capability, and what is answered to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_proxy.dialects.capabilities import CAPABILITIES, TOKEN, name_capability
from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.errors import (
    ProxyError,
    context_overflow,
    error_body,
    origin_not_allowed,
    owner_only,
    tools_unavailable,
)

from tests.proxy.client import HTTP, MESSAGES, OWNER, get
from tests.proxy.environment import WINDOW, RunningProxy, make_deployment
from tests.waiting import wait_for

Body = dict[str, Any]

SYSTEM: Body = {"role": "system", "content": "be brief"}
USER: Body = {"role": "user", "content": "SAY[fine]"}
EFFORT: Body = {"output_config": {"effort": "high"}}
FORMAT: Body = {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}


def turn(block: Body) -> Body:
    return {"messages": [{"role": "user", "content": [block]}]}


# class, what vLLM or a chat template says, the request, what Claude Code of any version looks for
REJECTED = [
    (
        "mid_conv_system",
        "System message must be at the beginning.",
        {"messages": [{"role": "system"}]},
        "not supported",
    ),
    (
        "thinking_type:enabled",
        "thinking_token_budget is set but reasoning_config is not configured.",
        {"thinking": {"type": "enabled"}},
        "thinking.type: enabled is not supported",
    ),
    ("structured_outputs_unsupported", "Invalid grammar specification.", FORMAT, "output_config.format: Extra inputs"),
    ("effort_unsupported", "Unexpected reasoning effort 'high'", EFFORT, "effort parameter"),
    ("media_budget", "At most 4 image(s) may be provided in one prompt.", {}, "Too much media"),
    ("image_block", "At most 0 image(s) may be provided in one prompt.", {}, "Could not process image"),
    ("image_block", "Failed to load image: cannot identify image file", {}, "Could not process image"),
    ("image_block", "org/Tiny is not a multimodal model", {}, "Could not process image"),
]
# classes that this proxy serves, by leaving out or converting what they are about
SERVED: list[tuple[str, Body]] = [
    ("mid_conv_system", {"messages": [USER, SYSTEM]}),
    ("cache_control_field", turn({"type": "text", "text": "a", "cache_control": {}})),
    (
        "thinking_signature",
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "of another"}]},
                {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "of another"}]},
                USER,
            ]
        },
    ),
    ("thinking_type:enabled", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    ("thinking_type:adaptive", {"thinking": {"type": "adaptive", "display": "omitted"}}),
    ("structured_outputs_unsupported", FORMAT),
    ("effort_unsupported", EFFORT),
    ("image_block", turn({"type": "image", "source": {"type": "file", "file_id": "f"}})),
    ("document_block", turn({"type": "document", "source": {"type": "base64"}})),
    ("max_tokens_context_overflow", {"max_tokens": 10_000_000}),
    ("beta_header", {"context_management": {"edits": []}, "container": "c", "mcp_servers": [], "speed": "fast"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def _model(proxy: RunningProxy) -> Iterator[None]:
    """Serve a model that thinks, reads images and calls tools."""
    traits = Traits(tool_parser="hermes", thinking="off", reasoning_parser="qwen3", vision=True)
    record = proxy.environment.store.create(make_deployment(traits=traits))
    wait_for(lambda: get(proxy, "/v1/models").json()["data"])
    yield
    proxy.environment.move(record.id, Phase.ENDED)


@pytest.mark.parametrize(("kind", "words", "body", "phrase"), REJECTED)
def test_rejected_capability_is_named_for_every_version(kind: str, words: str, body: Body, phrase: str) -> None:
    message = name_capability(words, body)
    assert message is not None and message.endswith(f"({TOKEN}{kind})")
    assert phrase in message and words.rstrip(".") in message


def test_every_class_that_is_rejected_has_a_row() -> None:
    assert {capability.name for capability in CAPABILITIES} == {row[0] for row in REJECTED}


@pytest.mark.parametrize("words", ["effort", "Invalid grammar specification", "thinking_token_budget", "bad request"])
def test_error_about_what_the_request_does_not_use_is_left_alone(words: str) -> None:
    assert name_capability(words, {"messages": [USER]}) is None


@pytest.mark.usefixtures("_model")
@pytest.mark.parametrize(("kind", "fields"), SERVED, ids=[row[0] for row in SERVED])
def test_capability_is_served_without_a_rejection(kind: str, fields: Body, proxy: RunningProxy) -> None:
    body = {"model": "tiny", "max_tokens": 16, "messages": [USER], **fields}
    headers = {**OWNER, "anthropic-beta": "of-tomorrow-2030-01-01", "x-claude-code-request-class": "compaction"}
    response = HTTP.post(f"{proxy.url}{MESSAGES}?beta=true", json=body, headers=headers)
    assert response.status_code == 200, response.text


def test_hello_needs_no_key(proxy: RunningProxy) -> None:
    response = HTTP.get(f"{proxy.url}/api/hello")
    assert (response.status_code, response.json()) == (200, {})


def test_prefill_is_refused(proxy: RunningProxy) -> None:
    body = {"model": "tiny", "max_tokens": 16, "messages": [USER, {"role": "assistant", "content": "The capital"}]}
    response = HTTP.post(proxy.url + MESSAGES, json=body, headers=OWNER)
    assert response.status_code == 400 and "prefill" in response.json()["error"]["message"]


# by which Claude Code 2.1.330 and later take an error of any gateway for an overflow, and for a rule of the gateway
OVERFLOWS = ("prompt is too long", "maximum context length", "exceeds the maximum number of tokens allowed")
POLICIES = ("policy_blocked", "dlp_request_denied")


@pytest.mark.parametrize("dialect", Dialect)
def test_overflow_has_a_phrase_that_clients_know(dialect: Dialect) -> None:
    message = error_body(dialect, context_overflow(5000, 4096))["error"]["message"].lower()
    assert any(phrase in message for phrase in OVERFLOWS)
    assert not any(policy in message for policy in POLICIES)


@pytest.mark.parametrize(
    "error",
    [owner_only("/metrics"), origin_not_allowed("http://localhost"), tools_unavailable("tiny", "calls come as text")],
    ids=lambda error: error.code,
)
def test_refusal_by_a_rule_is_named_and_not_tried_again(error: ProxyError) -> None:
    assert POLICIES[0] in error.message and dict(error.headers) == {b"x-should-retry": b"false"}


@pytest.mark.usefixtures("_model")
def test_refusal_by_a_rule_reaches_the_client(proxy: RunningProxy) -> None:
    headers = {"anthropic-version": "2023-06-01", "origin": "http://evil.example"}
    response = HTTP.options(proxy.url + MESSAGES, headers={**headers, "access-control-request-method": "POST"})
    assert (response.status_code, response.headers["x-should-retry"]) == (403, "false")
    assert response.json()["error"]["type"] == "permission_error"


@pytest.mark.usefixtures("_model")
@pytest.mark.parametrize("stream", [False, True])
def test_prompt_too_long_is_refused_at_once(proxy: RunningProxy, stream: bool) -> None:
    content = "word " * (WINDOW * 2)
    body = {"model": "tiny", "max_tokens": 16, "stream": stream, "messages": [{"role": "user", "content": content}]}
    response = HTTP.post(proxy.url + MESSAGES, json=body, headers=OWNER)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("prompt is too long: ")
