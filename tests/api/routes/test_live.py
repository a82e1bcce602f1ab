"""/v1/live: what the dashboard shows, read once for all pages and not at all while none is open."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.live import FigurePoint, LiveRequests

from tests.core.store.test_deployments import deployment
from tests.fakes.running_api import RunningApi, read_events
from tests.waiting import wait_for

Parts = Iterator[dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_page_is_open(running_api: RunningApi) -> Iterator[None]:
    """Wait for the end of the last test's pages: the next one has another Redis."""
    yield
    wait_for(lambda: not running_api.state.live_view.is_running, 40)


@contextlib.contextmanager
def live_stream(client: httpx.Client) -> Iterator[Parts]:
    with client.stream("GET", "/v1/live") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield read_events(response)


def until(parts: Parts, name: str, accepts: Any = lambda data: True) -> Any:
    """Return the data of the next part of that name that is accepted."""
    deadline = time.monotonic() + 30
    for part in parts:
        assert time.monotonic() < deadline
        if part["event"] == name and accepts(part["data"]):
            return part["data"]
    raise AssertionError("the stream has ended")


def test_stream_begins_with_all_parts_and_sends_what_changes(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.store.create(deployment("aa"))
    live_api.store.live_view.add_points([FigurePoint(job="j", deployment="aa", at=int(time.time()))])
    with live_stream(client) as parts:
        assert [point["job"] for point in until(parts, "history")] == ["j"]
        status = until(parts, "status")
        assert [one["id"] for one in status["deployments"]] == ["aa"] and status["worker"] is False
        assert "entry" not in status["deployments"][0] and status["tunnel"]["state"] == "up"
        live_api.store.update("aa", lambda one: one.moved(Phase.ENDED, one.created_at, reason="over"))
        began = time.monotonic()
        changed = until(parts, "status", lambda data: not data["deployments"])
        assert time.monotonic() - began < 3, "a change is shown at once, not at the next reading"
        assert [one["reason"] for one in changed["events"]] == ["", "over"]
        live_api.store.live_view.report_requests(LiveRequests(at=7.0, more=3))
        assert until(parts, "requests", lambda data: data is not None) == {"at": 7.0, "more": 3}
        live_api.store.live_view.add_points([FigurePoint(job="k", deployment="aa", at=int(time.time()))])
        assert [point["job"] for point in until(parts, "points")] == ["k"]


def test_every_page_hears_the_clock_at_first_and_while_nothing_changes(
    client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouchet_api.dashboard.live.CLOCK_S", 0.2)
    with live_stream(client) as one, live_stream(client) as other:
        for parts in (one, other):
            first = until(parts, "clock")
            assert abs(first - time.time()) < 30
            assert until(parts, "clock", lambda at, first=first: at > first)


def test_redis_knows_while_a_page_is_open(client: httpx.Client, live_api: RunningApi) -> None:
    assert not live_api.store.live_view.is_watched()
    with live_stream(client) as one, live_stream(client) as other:
        until(one, "status")
        until(other, "status")
        assert live_api.store.live_view.is_watched() and live_api.state.live_view.pages == 2
    wait_for(lambda: live_api.state.live_view.pages == 0, 40)


def test_page_that_is_opened_after_the_last_one_gets_what_is_true_then(
    client: httpx.Client, live_api: RunningApi
) -> None:
    with live_stream(client) as parts:
        assert until(parts, "status")["tunnel"] is not None
    wait_for(lambda: live_api.state.live_view.pages == 0, 40, pause_s=0.02)
    live_api.gateway.mute = True
    with live_stream(client) as parts:
        assert until(parts, "status")["tunnel"] is None


def test_gateway_that_does_not_answer_is_a_sentence(client: httpx.Client, live_api: RunningApi) -> None:
    live_api.gateway.mute = True
    with live_stream(client) as parts:
        status = until(parts, "status")
        assert status["tunnel"] is None and status["tunnel_error"]


def test_chat_without_a_proxy_says_so(client: httpx.Client, live_api: RunningApi) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    with client.stream("POST", "/v1/chat", json=body) as response:
        (event,) = read_events(response)
    assert event["event"] == "problem" and event["data"]["kind"] == "chat_refused"
    assert "the proxy does not answer" in event["data"]["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "tool", "content": "x"}]},
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": []},
    ],
)
def test_chat_takes_texts_only(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/v1/chat", content=json.dumps(body))
    assert answer.status_code == 422, answer.text


def is_awaited(api: RunningApi) -> bool:
    """Return whether the worker knows that a change is waited for, and forget it."""
    (found,) = api.store.ask(api.store.live_view.awaited_query())
    connection = api.store.queue_connection()
    connection.delete("bouchet:awaited")
    connection.close()
    return bool(found)


def test_worker_knows_while_a_client_asks_for_one_record_or_follows_it(
    client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouchet_core.store.live.NOTE_EVERY_S", 0.0)
    live_api.store.create(deployment("aa"))
    download = client.post("/v1/models/download", json={"model": "Qwen/Qwen3-32B"}).json()["id"]
    for path in ("/v1/deployments", "/v1/downloads", "/v1/status", "/healthz", "/metrics"):
        assert client.get(path).is_success
        assert not is_awaited(live_api), f"{path} is read by programs that wait for nothing"
    with client.stream("GET", "/v1/events?after=0") as response:
        next(read_events(response))
        assert not is_awaited(live_api), "a program may listen for ever"
    for path in ("/v1/deployments/aa", f"/v1/downloads/{download}"):
        assert client.get(path).is_success
        assert is_awaited(live_api), path
    with client.stream("GET", "/v1/deployments/aa/events") as response:
        events = read_events(response)
        next(events)
        is_awaited(live_api)
        live_api.store.update("aa", lambda one: one.moved(Phase.ENDED, one.created_at, reason="over"))
        list(events)
        assert is_awaited(live_api), "as long as the stream is open"
