"""Keys, limits, usage and metrics through a running proxy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import ApiKey, new_secret, sha256_of
from bouchet_core.usage import UsageBy
from prometheus_client.parser import text_string_to_metric_families

from tests.proxy.contract import CHAT, COUNT, MESSAGES, ask, chunks, until
from tests.proxy.running import ALIAS, KEY, MODEL, WINDOW, Door, Ground, deployment, front_in_thread

SESSION = "0f3c1d52-0d0e-4d58-9a53-0d6a5b1c2d3e"
PROMPT = "SAY[one two three] nobody keeps this"


@pytest.fixture(scope="module")
def door(ground: Ground) -> Iterator[Door]:
    with front_in_thread(ground) as door:
        record = ground.store.create(deployment())
        until(lambda: send(door, KEY, ask("x"), COUNT).status_code == 200)
        yield door
        ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))


@pytest.fixture
def new_key(door: Door) -> Iterator[Callable[..., str]]:
    """Makes a key that the proxy knows; all are revoked in the end."""
    access = door.ground.store.api_keys

    def make(name: str, **fields: Any) -> str:
        secret = new_secret()
        made = {"name": name, "sha256": sha256_of(secret), "ending": secret[-4:], "created_at": datetime.now(UTC)}
        access.add(ApiKey.model_validate({**made, **fields}))
        until(lambda: send(door, secret, ask("x"), COUNT).status_code == 200)
        return secret

    yield make
    for key in access.all():
        access.revoke(key.name)


def send(door: Door, key: str, body: dict[str, Any], path: str = MESSAGES, **headers: str) -> httpx.Response:
    return httpx.post(door.url + path, json=body, headers={"x-api-key": key, **headers}, timeout=30)


def last_record(door: Door, **wanted: str) -> dict[str, str]:
    """The newest usage record that has these fields, once it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for record in door.ground.store.usage.last():
            if all(record[name] == value for name, value in wanted.items()):
                return record
        time.sleep(0.05)
    raise AssertionError(f"no record with {wanted}")


def metrics(door: Door) -> dict[tuple[str, ...], float]:
    """(name, label values...) -> value, as Prometheus' own parser reads it."""
    text = httpx.get(f"{door.url}/metrics", headers={"x-api-key": KEY}, timeout=30).text
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families) > 5
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


class TestKeys:
    def test_a_key_opens_the_proxy_until_it_is_revoked(self, door: Door, new_key: Callable[..., str]) -> None:
        bob = new_key("bob")
        assert send(door, bob, ask("SAY[hi]")).json()["content"][0]["text"] == "hi"
        bearer = httpx.get(f"{door.url}/v1/models", headers={"authorization": f"Bearer {bob}"}, timeout=30)
        assert bearer.status_code == 200
        door.ground.store.api_keys.revoke("bob")
        revoked_at = time.monotonic()
        while send(door, bob, ask("x"), COUNT).status_code != 401:
            assert time.monotonic() - revoked_at < 30
        assert "revoked" in send(door, bob, ask("x")).json()["error"]["message"]

    def test_an_expired_key_is_refused(self, door: Door, new_key: Callable[..., str]) -> None:
        brief, past = new_secret(), datetime.now(UTC) - timedelta(seconds=1)
        made = {"name": "brief", "sha256": sha256_of(brief), "ending": brief[-4:], "created_at": past}
        door.ground.store.api_keys.add(ApiKey.model_validate({**made, "expires_at": past}))
        later = new_key("later", expires_at=datetime.now(UTC) + timedelta(minutes=5))
        # who knows the later one has read the other, too
        assert [send(door, key, ask("x")).status_code for key in (brief, later)] == [401, 200]

    def test_metrics_are_the_owners(self, door: Door, new_key: Callable[..., str]) -> None:
        refused = httpx.get(f"{door.url}/metrics", headers={"x-api-key": new_key("bob")}, timeout=30)
        assert refused.status_code == 403 and "owner" in refused.text
        assert httpx.get(f"{door.url}/metrics", timeout=30).status_code == 401

    @pytest.mark.parametrize(("path", "kind"), [(MESSAGES, "rate_limit_error"), (CHAT, "rate_limit_error")])
    def test_requests_over_the_limit(self, door: Door, new_key: Callable[..., str], path: str, kind: str) -> None:
        bob = new_key("bob", requests_per_minute=2)
        first = send(door, bob, ask("SAY[a]"), path)
        assert first.status_code == 200
        left = "anthropic-ratelimit-requests-remaining" if path == MESSAGES else "x-ratelimit-remaining-requests"
        assert first.headers[left] == "1"
        assert send(door, bob, ask("SAY[a]", stream=True), path).status_code == 200
        over = send(door, bob, ask("SAY[a]"), path)
        assert (over.status_code, over.json()["error"]["type"]) == (429, kind)
        assert 1 <= int(over.headers["retry-after"]) <= 30
        assert over.headers[left] == "0"
        assert "2 requests a minute" in over.json()["error"]["message"]
        assert send(door, KEY, ask("SAY[a]"), path).status_code == 200

    def test_tokens_over_the_limit(self, door: Door, new_key: Callable[..., str]) -> None:
        bob = new_key("bob", tokens_per_minute=40)
        assert send(door, bob, ask(f"SAY[{'a ' * 100}]", stream=True), CHAT).status_code == 200
        over = send(door, bob, ask("SAY[a]"), CHAT)
        assert (over.status_code, over.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "40 tokens a minute" in over.json()["error"]["message"]
        assert [send(door, bob, ask("SAY[a]"), CHAT).status_code for _ in range(5)] == [429] * 5, (
            "a refusal costs nothing"
        )


class TestUsage:
    @pytest.mark.parametrize("path", [MESSAGES, CHAT, "/v1/completions"])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_request_is_on_record(self, door: Door, new_key: Callable[..., str], path: str, streamed: bool) -> None:
        name = f"k{path.rpartition('/')[2]}-{streamed}".lower()
        key = new_key(name)
        body = ask(PROMPT, stream=streamed, metadata={"user_id": f"user_1_account__session_{SESSION}"})
        if path == "/v1/completions":
            body = {"model": ALIAS, "prompt": PROMPT, "max_tokens": 9, "stream": streamed}
        assert send(door, key, body, path).status_code == 200
        record = last_record(door, key=name, endpoint=path)
        assert (record["model"], record["status"], record["error"]) == (MODEL, "200", "")
        assert record["deployment"].startswith("id-tiny")
        assert (record["first_ms"] != "") is streamed
        if path != "/v1/completions":
            assert (record["output"], int(record["input"]) > 0) == ("5", True)
            assert len(record["session"]) == 12
        kept = json.dumps(door.ground.store.usage.last())
        for secret in (key, KEY, SESSION, "nobody keeps this", "one two"):
            assert secret not in kept

    def test_sums_by_key(self, door: Door, new_key: Callable[..., str]) -> None:
        key = new_key("carol")
        for _ in range(3):
            send(door, key, ask("SAY[a b]", stream=True))
        last_record(door, key="carol", endpoint=MESSAGES)

        def carol() -> Any:
            lines = door.ground.store.usage.summaries(UsageBy.KEY, time.time() - 60, time.time())
            return next(line for line in lines if line.name == "carol")

        until(lambda: carol().output_tokens == 9)
        assert carol().errors == 0 and carol().first_token_ms is not None

    def test_failures_have_a_kind(self, door: Door, new_key: Callable[..., str]) -> None:
        key = new_key("dave")
        send(door, key, ask("x", model="gpt-99"))
        assert last_record(door, key="dave", error="model_not_found")["status"] == "404"
        send(door, key, ask("REFUSE[500]"))
        assert last_record(door, key="dave", error="http_500")["status"] == "500"
        send(door, key, ask("SAY[a b c d e f g h] DIE[7]", stream=True))
        broken = last_record(door, key="dave", error="stream_interrupted")
        assert int(broken["output"]) >= 4

    def test_a_client_that_leaves_is_noted(self, door: Door, new_key: Callable[..., str]) -> None:
        key = new_key("erin")
        body = ask(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
        with httpx.stream("POST", door.url + MESSAGES, json=body, headers={"x-api-key": key}, timeout=30) as answer:
            assert answer.status_code == 200
        last_record(door, key="erin", error="client_left")

    def test_a_stream_shows_its_counts_only_to_whom_asked(self, door: Door) -> None:
        plain = chunks(send(door, KEY, ask("SAY[a b]", stream=True), CHAT))
        assert not any("usage" in chunk for chunk in plain)
        asked = ask("SAY[a b]", stream=True, stream_options={"include_usage": True})
        assert chunks(send(door, KEY, asked, CHAT))[-1]["usage"]["completion_tokens"] == 3


class TestMetrics:
    def test_counters_go_up(self, door: Door) -> None:
        before = metrics(door)
        send(door, KEY, ask("SAY[a b]", stream=True, max_tokens=WINDOW + 1))
        send(door, "wrong", ask("x"))
        after = metrics(door)

        def gained(*name: str) -> float:
            return after.get(name, 0) - before.get(name, 0)

        assert gained("bouchet_requests_total", MESSAGES, MODEL, "200") == 1
        assert gained("bouchet_requests_total", MESSAGES, "", "401") == 1
        assert gained("bouchet_errors_total", "invalid_api_key") == 1
        assert gained("bouchet_tokens_total", MODEL, "output") == 3
        assert gained("bouchet_clamped_requests_total", MODEL) == 1
        assert gained("bouchet_time_to_first_byte_seconds_count", MESSAGES, MODEL) == 1
        assert gained("bouchet_time_to_first_byte_seconds_bucket", MESSAGES, MODEL, "+Inf") == 1
        assert after["bouchet_streams_open",] == 0

    def test_open_streams_are_counted(self, door: Door) -> None:
        body = ask(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
        with httpx.stream("POST", door.url + MESSAGES, json=body, headers={"x-api-key": KEY}, timeout=30):
            assert metrics(door)["bouchet_streams_open",] == 1
        until(lambda: metrics(door)["bouchet_streams_open",] == 0)
