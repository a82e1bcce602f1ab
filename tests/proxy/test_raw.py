"""`/passthrough/NAME/...`: the model's server as it is, for the owner alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import ApiKey, new_secret, serving_key, sha256_of

from tests.proxy.contract import CHAT, ask, until
from tests.proxy.running import ALIAS, JOB, KEY, SERVING_SECRET, Door, Ground, deployment, front_in_thread

AUTH = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def door(ground: Ground) -> Iterator[Door]:
    with front_in_thread(ground) as door:
        record = ground.store.create(deployment())
        until(lambda: raw(door, "GET", "/health").status_code == 200)
        yield door
        ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))


def raw(door: Door, method: str, path: str, name: str = ALIAS, **options: Any) -> httpx.Response:
    return httpx.request(method, f"{door.url}/passthrough/{name}{path}", **{"headers": AUTH, "timeout": 20, **options})


def test_a_request_goes_as_it_is_but_for_its_key(door: Door) -> None:
    body = {"model": ALIAS, "messages": [{"role": "user", "content": "SAY[hi]"}], "odd": [1, {"b": None}]}
    text = json.dumps(body, indent=3)
    sent = {**AUTH, "x-mine": "kept", "cookie": "a=b", "content-type": "application/json"}
    answer = raw(door, "POST", CHAT, content=text, headers=sent)
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    seen = door.ground.fake.requests()[-1]
    assert seen["body"] == body
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["authorization"] == f"Bearer {serving_key(SERVING_SECRET, JOB)}"
    assert (headers["x-mine"], headers["content-length"], "cookie" in headers) == ("kept", str(len(text)), False)


def test_paths_and_methods_that_only_the_model_knows(door: Door) -> None:
    assert raw(door, "GET", "/fake/count?x=1&y=%2F").status_code == 200
    assert raw(door, "GET", "/health", content=b"").content == b""
    counted = raw(door, "POST", "/tokenize", json={"prompt": "one two three"})
    assert (counted.status_code, counted.json()["count"]) == (200, 3)
    assert raw(door, "HEAD", "/health").status_code == 200
    missing = raw(door, "DELETE", "/not/there")
    assert (missing.status_code, missing.text) == (404, "404: Not Found")


def test_a_stream_comes_as_it_is_said(door: Door) -> None:
    url = f"{door.url}/passthrough/{ALIAS}{CHAT}"
    with httpx.stream("POST", url, json=ask("SAY[a b c]", stream=True), headers=AUTH, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert b"".join(answer.iter_raw()).endswith(b"data: [DONE]\n\n")


def test_a_stream_that_dies_does_not_end_properly(door: Door) -> None:
    body = ask("SAY[a b c] DIE[2]", stream=True)
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{door.url}/passthrough/{ALIAS}{CHAT}", json=body, headers=AUTH, timeout=30) as answer,
    ):
        answer.read()


def test_bytes_arrive_as_they_come_and_a_client_that_leaves_stops_the_model(door: Door) -> None:
    before = raw(door, "GET", "/fake/aborted").json()
    # a stream of minutes: whoever waits for its end reads nothing within the limit
    body = ask(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
    with httpx.stream("POST", f"{door.url}/passthrough/{ALIAS}{CHAT}", json=body, headers=AUTH, timeout=30) as answer:
        assert any(b'"content":' in piece for piece in answer.iter_raw())
    until(lambda: raw(door, "GET", "/fake/aborted").json() == before + 1)


def test_only_the_owners_key_opens_it(door: Door) -> None:
    secret = new_secret()
    fields = {"name": "visitor", "sha256": sha256_of(secret), "ending": secret[-4:], "created_at": datetime.now(UTC)}
    door.ground.store.api_keys.add(ApiKey.model_validate(fields))
    visitor = {"x-api-key": secret}
    until(lambda: httpx.get(f"{door.url}/v1/models", headers=visitor, timeout=30).status_code == 200)
    before = door.ground.fake.count()
    refused = raw(door, "POST", CHAT, json=ask("x"), headers=visitor)
    assert (refused.status_code, "owner's key" in refused.text) == (403, True)
    assert raw(door, "GET", "/health", headers={}).status_code == 401
    assert door.ground.fake.count() == before
    door.ground.store.api_keys.revoke("visitor")


def test_names_and_places_that_lead_nowhere(door: Door) -> None:
    assert raw(door, "GET", "/health", name="nobody").status_code == 404
    assert httpx.get(f"{door.url}/passthrough/{ALIAS}", headers=AUTH, timeout=30).status_code == 404
    record = door.ground.store.create(deployment("away", "org/Away", slot=1))
    until(lambda: "cannot be reached" in raw(door, "GET", "/health", name="away").text)
    assert raw(door, "GET", "/health", name="away").status_code in (503, 529)
    door.ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))


def test_a_name_with_a_slash_is_quoted(door: Door) -> None:
    assert raw(door, "GET", "/health", name="org%2FTiny-Model").status_code == 200
