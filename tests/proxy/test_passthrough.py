"""`/passthrough/NAME/...`: the model's server unfiltered, for the owner only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import ApiKey, new_secret, serving_key, sha256_of

from tests.proxy.client import CHAT, HTTP, chat_body
from tests.proxy.environment import ALIAS, JOB, KEY, SERVING_SECRET, RunningProxy, make_deployment
from tests.waiting import wait_for

AUTH = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module", autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[None]:
    record = proxy.environment.store.create(make_deployment())
    wait_for(lambda: send(proxy, "GET", "/health").status_code == 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)


def send(proxy: RunningProxy, method: str, path: str, name: str = ALIAS, **options: Any) -> httpx.Response:
    return HTTP.request(method, f"{proxy.url}/passthrough/{name}{path}", **{"headers": AUTH, **options})


def test_request_passes_unchanged_with_the_jobs_key(proxy: RunningProxy) -> None:
    body = {"model": ALIAS, "messages": [{"role": "user", "content": "SAY[hi]"}], "odd": [1, {"b": None}]}
    text = json.dumps(body, indent=3)
    headers = {**AUTH, "x-mine": "kept", "cookie": "a=b", "content-type": "application/json"}
    response = send(proxy, "POST", CHAT, content=text, headers=headers)
    assert response.json()["choices"][0]["message"]["content"] == "hi"
    received = proxy.environment.vllm.requests[-1]
    assert received["body"] == body
    headers = {name.lower(): value for name, value in received["headers"].items()}
    assert headers["authorization"] == f"Bearer {serving_key(SERVING_SECRET, JOB)}"
    assert (headers["x-mine"], headers["content-length"], "cookie" in headers) == ("kept", str(len(text)), False)


def test_any_path_and_method_of_the_model_is_served(proxy: RunningProxy) -> None:
    assert send(proxy, "GET", "/version?x=1&y=%2F").json()["version"]
    assert send(proxy, "GET", "/health", content=b"").content == b""
    counted = send(proxy, "POST", "/tokenize", json={"prompt": "one two three"})
    assert (counted.status_code, counted.json()["count"]) == (200, 3)
    assert send(proxy, "HEAD", "/health").status_code == 200
    missing = send(proxy, "DELETE", "/not/there")
    assert (missing.status_code, missing.text) == (404, "404: Not Found")


def test_kept_answers_are_no_path_of_the_model(proxy: RunningProxy) -> None:
    """An id would let a request outlive its client, or read what others asked."""
    before = len(proxy.environment.vllm.requests)
    for path in ("/bouchet/streams/x", "//bouchet/streams/x", "/%62ouchet/streams/x"):
        assert send(proxy, "GET", path).status_code == 404
    named = {**AUTH, "x-bouchet-stream": "a" * 32, "x-bouchet-attempt": "1"}
    assert send(proxy, "POST", CHAT, json=chat_body("SAY[hi]"), headers=named).status_code == 200
    received = proxy.environment.vllm.requests[before:]
    assert not any("bouchet" in name.lower() for request in received for name in request["headers"])


def test_answer_has_one_date(proxy: RunningProxy) -> None:
    headers = send(proxy, "GET", "/version").headers.get_list("date")
    assert len(headers) == 1


def test_stream_passes_unchanged(proxy: RunningProxy) -> None:
    url = f"{proxy.url}/passthrough/{ALIAS}{CHAT}"
    with HTTP.stream("POST", url, json=chat_body("SAY[a b c]", stream=True), headers=AUTH) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert b"".join(response.iter_raw()).endswith(b"data: [DONE]\n\n")


def test_interrupted_stream_has_no_proper_end(proxy: RunningProxy) -> None:
    body = chat_body("SAY[a b c] DIE[2]", stream=True)
    with (
        pytest.raises(httpx.RemoteProtocolError),
        HTTP.stream("POST", f"{proxy.url}/passthrough/{ALIAS}{CHAT}", json=body, headers=AUTH) as response,
    ):
        response.read()


def test_disconnect_in_a_stream_stops_the_model(proxy: RunningProxy) -> None:
    before = proxy.environment.vllm.aborted
    # a stream of minutes: a client that waits for its end reads nothing within the limit
    body = chat_body(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
    with HTTP.stream("POST", f"{proxy.url}/passthrough/{ALIAS}{CHAT}", json=body, headers=AUTH) as response:
        assert any(b'"content":' in piece for piece in response.iter_raw())
    wait_for(lambda: proxy.environment.vllm.aborted == before + 1)


def test_other_keys_are_rejected(proxy: RunningProxy) -> None:
    secret = new_secret()
    fields = {"name": "visitor", "sha256": sha256_of(secret), "ending": secret[-4:], "created_at": datetime.now(UTC)}
    proxy.environment.store.api_keys.add(ApiKey.model_validate(fields))
    visitor = {"x-api-key": secret}
    wait_for(lambda: HTTP.get(f"{proxy.url}/v1/models", headers=visitor).status_code == 200)
    before = len(proxy.environment.vllm.requests)
    rejected = send(proxy, "POST", CHAT, json=chat_body("x"), headers=visitor)
    assert (rejected.status_code, rejected.json()["error"]["code"]) == (403, "owner_only")
    assert send(proxy, "GET", "/health", headers={}).status_code == 401
    assert len(proxy.environment.vllm.requests) == before
    proxy.environment.store.api_keys.revoke("visitor")


def test_unknown_name_and_unreachable_server_are_errors(proxy: RunningProxy) -> None:
    assert send(proxy, "GET", "/health", name="no-such-model").status_code == 404
    assert HTTP.get(f"{proxy.url}/passthrough/{ALIAS}", headers=AUTH).status_code == 404
    record = proxy.environment.store.create(make_deployment("away", "org/Away", slot=1))
    wait_for(lambda: "cannot be reached" in send(proxy, "GET", "/health", name="away").text)
    assert send(proxy, "GET", "/health", name="away").status_code in (503, 529)
    proxy.environment.move(record.id, Phase.ENDED)


def test_name_with_a_quoted_slash_is_served(proxy: RunningProxy) -> None:
    assert send(proxy, "GET", "/health", name="org%2FTiny-Model").status_code == 200
