"""Nothing that a client sends is answered with a failure of the proxy itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.upstream_errors import error_from_upstream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.client import HTTP, MESSAGES, OWNER, chat_body, error_of, post, wait_for_status
from tests.proxy.dialects.bodies import ANYTHING, BODIES
from tests.proxy.environment import ALIAS, RunningProxy, make_deployment

INTERNAL = "internal proxy error"
# orjson reads 1024 levels and writes 254
DEEP = 300
FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[None]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)


@FIXTURE
@given(st.sampled_from(Endpoint), BODIES, st.just(ALIAS) | ANYTHING)
def test_any_body_is_no_internal_error(proxy: RunningProxy, path: str, body: dict[str, Any], model: object) -> None:
    response = HTTP.post(proxy.url + path, json={**body, "model": model}, headers=OWNER)
    assert INTERNAL not in response.text


@FIXTURE
@given(st.sampled_from(Endpoint), st.binary(max_size=40) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_client_error(proxy: RunningProxy, path: str, data: bytes) -> None:
    response = HTTP.post(proxy.url + path, content=data, headers=OWNER)
    assert 400 <= response.status_code < 500 or INTERNAL not in response.text


def nested(inner: dict[str, Any]) -> dict[str, Any]:
    for _ in range(DEEP):
        inner = {"type": "tool_result", "tool_use_id": "x", "content": [inner]}
    return inner


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"name": "a", "input_schema": nested({})}]},
        {"messages": [{"role": "user", "content": [nested({"type": "text", "text": "x"})]}]},
        {"system": [{"type": "text", "text": "x", "deep": nested({})}]},
    ],
    ids=["tools", "blocks", "system"],
)
@pytest.mark.parametrize("path", [MESSAGES, Endpoint.CHAT, Endpoint.COUNT_TOKENS])
def test_body_that_is_nested_too_deeply_is_refused(proxy: RunningProxy, path: str, fields: dict[str, Any]) -> None:
    response = post(proxy, path, chat_body("x", **fields))
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert any(word in error_of(response)["message"] for word in ("nested", "shape of Anthropic's"))


def test_answer_of_many_closing_tags_is_passed(proxy: RunningProxy) -> None:
    response = post(proxy, MESSAGES, chat_body(f"SAY[{'</think>' * 3000}end]"))
    assert response.json()["content"][0]["text"] == "end"


def test_tool_call_with_deep_arguments_is_passed(proxy: RunningProxy) -> None:
    arguments = json.dumps(nested({}))
    response = post(proxy, MESSAGES, chat_body(f"CALL[deep {arguments}]", tools=[{"name": "deep"}]))
    assert response.status_code == 200
    assert json.dumps(response.json()["content"][0]["input"]) == arguments


def test_error_message_that_is_nested_deeply_is_passed() -> None:
    body = b'{"error":' * 900 + b'"x"' + b"}" * 900
    assert error_from_upstream(400, body, ALIAS).status == 400
