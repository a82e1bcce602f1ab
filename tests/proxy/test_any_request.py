"""Nothing that a client sends is answered with a failure of the proxy itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

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
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X"])
FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[None]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)


@pytest.mark.parametrize("path", Endpoint)
@FIXTURE
@given(body=BODIES, model=st.just(ALIAS) | ANYTHING)
def test_any_body_is_no_server_error(proxy: RunningProxy, path: str, body: dict[str, Any], model: object) -> None:
    response = HTTP.post(proxy.url + path, json={**body, "model": model}, headers=OWNER)
    assert response.status_code < 500 and INTERNAL not in response.text, response.text


@pytest.mark.parametrize("path", Endpoint)
@FIXTURE
@given(data=st.binary(max_size=40) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_server_error(proxy: RunningProxy, path: str, data: bytes) -> None:
    response = HTTP.post(proxy.url + path, content=data, headers=OWNER)
    assert response.status_code < 500 and INTERNAL not in response.text, response.text


@FIXTURE
@given(method=METHODS, rest=st.text(max_size=30), query=st.text(max_size=20), data=st.binary(max_size=40))
def test_any_path_of_a_deployment_is_no_server_error(
    proxy: RunningProxy, method: str, rest: str, query: str, data: bytes
) -> None:
    url = f"{proxy.url}/passthrough/{ALIAS}/{quote(rest, safe='/')}"
    response = HTTP.request(method, url, params=query, content=data, headers=OWNER)
    assert response.status_code < 500, response.text


@FIXTURE
@given(method=METHODS, path=st.text(max_size=30), data=st.binary(max_size=40))
def test_any_other_path_is_no_server_error(proxy: RunningProxy, method: str, path: str, data: bytes) -> None:
    response = HTTP.request(method, f"{proxy.url}/{quote(path, safe='/')}", content=data, headers=OWNER)
    assert response.status_code < 500, response.text


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
