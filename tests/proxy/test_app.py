"""Keys, rate limits, usage records and metrics through a running proxy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import ApiKey, metrics_key, new_secret, sha256_of
from prometheus_client.parser import text_string_to_metric_families

from tests.proxy.client import (
    CHAT,
    COMPLETIONS,
    COUNT,
    HTTP,
    MESSAGES,
    OWNER,
    chat_body,
    chat_chunks,
    error_of,
    metrics_text,
    wait_for_status,
)
from tests.proxy.environment import ALIAS, KEY, MODEL, WINDOW, RunningProxy, make_deployment
from tests.waiting import wait_for

SESSION = "0f3c1d52-0d0e-4d58-9a53-0d6a5b1c2d3e"
PROMPT = "SAY[one two three] a private prompt"

NewKey = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[None]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)


def make_api_key(name: str, secret: str, **fields: Any) -> ApiKey:
    values = {"name": name, "sha256": sha256_of(secret), "ending": secret[-4:], "created_at": datetime.now(UTC)}
    return ApiKey.model_validate({**values, **fields})


@pytest.fixture
def new_key(proxy: RunningProxy) -> Iterator[NewKey]:
    """Create keys that the proxy knows; all are revoked after the test."""
    keys = proxy.environment.store.api_keys

    def create(name: str, **fields: Any) -> str:
        secret = new_secret()
        keys.add(make_api_key(name, secret, **fields))
        wait_for(lambda: HTTP.get(f"{proxy.url}/v1/models", headers={"x-api-key": secret}).status_code == 200)
        return secret

    yield create
    for key in keys.all():
        keys.revoke(key.name)


def send(proxy: RunningProxy, key: str, body: dict[str, Any], path: str = MESSAGES) -> httpx.Response:
    return HTTP.post(proxy.url + path, json=body, headers={"x-api-key": key})


def wait_for_record(proxy: RunningProxy, **fields: str) -> dict[str, str]:
    """Return the newest usage record with these fields, once it is written."""

    def find() -> dict[str, str] | None:
        records = proxy.environment.store.usage.last()
        return next((r for r in records if all(r[name] == value for name, value in fields.items())), None)

    record = wait_for(find)
    assert record is not None
    return record


def read_metrics(proxy: RunningProxy) -> dict[tuple[str, ...], float]:
    """Return (name, label values in the order of their names) -> value, as Prometheus' own parser reads them."""
    families = list(text_string_to_metric_families(metrics_text(proxy)))
    assert len({family.name for family in families}) == len(families) > 5
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


class TestKeys:
    def test_revoked_key_is_rejected(self, proxy: RunningProxy, new_key: NewKey) -> None:
        bob = new_key("bob")
        assert send(proxy, bob, chat_body("SAY[hi]")).json()["content"][0]["text"] == "hi"
        bearer = HTTP.get(f"{proxy.url}/v1/models", headers={"authorization": f"Bearer {bob}"})
        assert bearer.status_code == 200
        proxy.environment.store.api_keys.revoke("bob")
        wait_for(lambda: send(proxy, bob, chat_body("x"), COUNT).status_code == 401)
        assert error_of(send(proxy, bob, chat_body("x")))["type"] == "authentication_error"

    def test_expired_key_is_rejected(self, proxy: RunningProxy, new_key: NewKey) -> None:
        secret, past = new_secret(), datetime.now(UTC) - timedelta(seconds=1)
        proxy.environment.store.api_keys.add(make_api_key("brief", secret, created_at=past, expires_at=past))
        # when the proxy knows the later key, it has read the expired one, too
        later = new_key("later", expires_at=datetime.now(UTC) + timedelta(minutes=5))
        assert [send(proxy, key, chat_body("x")).status_code for key in (secret, later)] == [401, 200]

    def test_metrics_require_the_owners_key(self, proxy: RunningProxy, new_key: NewKey) -> None:
        response = HTTP.get(f"{proxy.url}/metrics", headers={"x-api-key": new_key("bob")})
        assert (response.status_code, error_of(response)["code"]) == (403, "owner_only")
        assert HTTP.get(f"{proxy.url}/metrics").status_code == 401

    def test_key_of_prometheus_opens_metrics_alone(self, proxy: RunningProxy) -> None:
        key = metrics_key(KEY)
        assert HTTP.get(f"{proxy.url}/metrics", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert HTTP.get(f"{proxy.url}/v1/models", headers={"x-api-key": key}).status_code == 401
        assert send(proxy, key, chat_body("x")).status_code == 401

    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    def test_requests_above_the_limit_are_rejected(self, proxy: RunningProxy, new_key: NewKey, path: str) -> None:
        bob = new_key("bob", requests_per_minute=2)
        first = send(proxy, bob, chat_body("SAY[a]"), path)
        assert first.status_code == 200
        remaining = "anthropic-ratelimit-requests-remaining" if path == MESSAGES else "x-ratelimit-remaining-requests"
        assert first.headers[remaining] == "1"
        assert send(proxy, bob, chat_body("SAY[a]", stream=True), path).status_code == 200
        rejected = send(proxy, bob, chat_body("SAY[a]"), path)
        assert (rejected.status_code, error_of(rejected)["type"]) == (429, "rate_limit_error")
        assert 1 <= int(rejected.headers["retry-after"]) <= 30
        assert rejected.headers[remaining] == "0"
        assert "2 requests per minute" in error_of(rejected)["message"]
        assert send(proxy, KEY, chat_body("SAY[a]"), path).status_code == 200

    def test_tokens_above_the_limit_are_rejected(self, proxy: RunningProxy, new_key: NewKey) -> None:
        bob = new_key("bob", tokens_per_minute=40)
        assert send(proxy, bob, chat_body(f"SAY[{'a ' * 100}]", stream=True), CHAT).status_code == 200
        rejected = send(proxy, bob, chat_body("SAY[a]"), CHAT)
        assert (rejected.status_code, error_of(rejected)["code"]) == (429, "rate_limit_exceeded")
        assert "40 tokens per minute" in error_of(rejected)["message"]
        # a rejected request is not charged
        statuses = [send(proxy, bob, chat_body("SAY[a]"), CHAT).status_code for _ in range(5)]
        assert statuses == [429] * 5

    @pytest.mark.parametrize(
        ("path", "model", "status"), [(COUNT, ALIAS, 200), (MESSAGES, "gpt-99", 404), (CHAT, "gpt-99", 404)]
    )
    def test_requests_that_use_no_model_are_limited_too(
        self, proxy: RunningProxy, new_key: NewKey, path: str, model: str, status: int
    ) -> None:
        bob = new_key("bob", requests_per_minute=2)
        statuses = [send(proxy, bob, chat_body("x", model=model), path).status_code for _ in range(3)]
        assert statuses == [status, status, 429]

    def test_count_without_tokens_left_is_served(self, proxy: RunningProxy, new_key: NewKey) -> None:
        bob = new_key("bob", tokens_per_minute=40)
        assert send(proxy, bob, chat_body(f"SAY[{'a ' * 100}]")).status_code == 200
        statuses = [send(proxy, bob, chat_body("x"), path).status_code for path in (MESSAGES, COUNT)]
        assert statuses == [429, 200]


class TestUsage:
    @pytest.mark.parametrize("path", [MESSAGES, CHAT, COMPLETIONS])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_request_is_recorded_without_its_content(
        self, proxy: RunningProxy, new_key: NewKey, path: str, streamed: bool
    ) -> None:
        name = f"k{path.rpartition('/')[2]}-{streamed}".lower()
        key = new_key(name)
        body = chat_body(PROMPT, stream=streamed, metadata={"user_id": f"user_1_account__session_{SESSION}"})
        if path == COMPLETIONS:
            body = {"model": ALIAS, "prompt": PROMPT, "max_tokens": 9, "stream": streamed}
        assert send(proxy, key, body, path).status_code == 200
        record = wait_for_record(proxy, key=name, endpoint=path)
        assert (record["model"], record["status"], record["error"]) == (MODEL, "200", "")
        assert record["deployment"].startswith("id-tiny")
        assert (record["first_ms"] != "") is streamed
        if path != COMPLETIONS:
            assert (record["output"], int(record["input"]) > 0) == ("5", True)
            assert len(record["session"]) == 12
        stored = json.dumps(proxy.environment.store.usage.last())
        for secret in (key, KEY, SESSION, "a private prompt", "one two"):
            assert secret not in stored

    def test_requests_of_a_key_are_recorded_one_by_one(self, proxy: RunningProxy, new_key: NewKey) -> None:
        key = new_key("carol")
        for _ in range(3):
            send(proxy, key, chat_body("SAY[a b]", stream=True))
        wait_for_record(proxy, key="carol", endpoint=MESSAGES)

        def carol() -> list[dict[str, str]]:
            return [request for request in proxy.environment.store.usage.last(1000) if request["key"] == "carol"]

        wait_for(lambda: sum(int(request["output"]) for request in carol()) == 9)
        assert all(request["error"] == "" and request["first_ms"] for request in carol())

    def test_failed_request_is_recorded_with_its_kind(self, proxy: RunningProxy, new_key: NewKey) -> None:
        key = new_key("dave")
        send(proxy, key, chat_body("x", model="gpt-99"))
        assert wait_for_record(proxy, key="dave", error="model_not_found")["status"] == "404"
        send(proxy, key, chat_body("REFUSE[500]"))
        assert wait_for_record(proxy, key="dave", error="http_500")["status"] == "500"
        send(proxy, key, chat_body("SAY[a b c d e f g h] DIE[7]", stream=True))
        assert int(wait_for_record(proxy, key="dave", error="stream_interrupted")["output"]) >= 4

    def test_session_of_a_request_that_reached_no_model_is_not_recorded(
        self, proxy: RunningProxy, new_key: NewKey
    ) -> None:
        headers = {"x-api-key": new_key("frank"), "x-session-id": "invented"}
        HTTP.post(proxy.url + MESSAGES, json=chat_body("x", model="gpt-99"), headers=headers)
        assert wait_for_record(proxy, key="frank", status="404")["session"] == ""

    def test_client_that_disconnects_is_recorded(self, proxy: RunningProxy, new_key: NewKey) -> None:
        key = new_key("erin")
        body = chat_body(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
        with HTTP.stream("POST", proxy.url + MESSAGES, json=body, headers={"x-api-key": key}) as response:
            assert response.status_code == 200
        wait_for_record(proxy, key="erin", error="client_left")

    def test_stream_has_usage_only_if_requested(self, proxy: RunningProxy) -> None:
        plain = chat_chunks(send(proxy, KEY, chat_body("SAY[a b]", stream=True), CHAT))
        assert not any("usage" in chunk for chunk in plain)
        body = chat_body("SAY[a b]", stream=True, stream_options={"include_usage": True})
        assert chat_chunks(send(proxy, KEY, body, CHAT))[-1]["usage"]["completion_tokens"] == 3


class TestMetrics:
    def test_counters_increase(self, proxy: RunningProxy) -> None:
        before = read_metrics(proxy)
        send(proxy, KEY, chat_body("SAY[a b]", stream=True, max_tokens=WINDOW + 1))
        send(proxy, "wrong", chat_body("x"))
        after = read_metrics(proxy)

        def increase(*name: str) -> float:
            return after.get(name, 0) - before.get(name, 0)

        assert increase("bouchet_requests_total", MESSAGES, MODEL, "200") == 1
        assert increase("bouchet_requests_total", MESSAGES, "", "401") == 1
        assert increase("bouchet_errors_total", "invalid_api_key") == 1
        assert increase("bouchet_tokens_total", "output", MODEL) == 3
        assert increase("bouchet_clamped_requests_total", MODEL) == 1
        assert increase("bouchet_time_to_first_byte_seconds_count", MESSAGES, MODEL) == 1
        assert increase("bouchet_time_to_first_byte_seconds_bucket", MESSAGES, "+Inf", MODEL) == 1
        assert after["bouchet_streams_open",] == 0

    def test_open_streams_are_counted(self, proxy: RunningProxy) -> None:
        body = chat_body(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
        with HTTP.stream("POST", proxy.url + MESSAGES, json=body, headers=OWNER):
            assert read_metrics(proxy)["bouchet_streams_open",] == 1
        wait_for(lambda: read_metrics(proxy)["bouchet_streams_open",] == 0)
