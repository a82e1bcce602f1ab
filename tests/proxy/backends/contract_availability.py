"""The contract of both backends: replicas, models that are not ready, and models that cannot be reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from itertools import count, islice
from typing import Any

import httpx
from bouchet_core.deployments import Deployment, LaunchRequest, Phase
from bouchet_proxy.streams.sse import parse_stream

from tests.conftest import free_port
from tests.fakes.relay import PortRelay
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.client import (
    CHAT,
    COUNT,
    HTTP,
    MESSAGES,
    OWNER,
    RESPONSES,
    anthropic_text,
    chat_body,
    chat_chunks,
    chat_text,
    metrics_text,
    post,
    wait_for_status,
)
from tests.proxy.environment import HOLD_S, MODEL, RunningProxy, make_deployment, serve_model
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for

WAITING_METRIC = "bouchet_requests_held"


def behind_slot(proxy: RunningProxy, slot: int, name: str) -> AbstractContextManager[FakeVLLM]:
    """Serve a model behind that slot."""
    return serve_model(proxy.environment.slot_base_port + slot, name)


def post_and_act(proxy: RunningProxy, path: str, body: dict[str, Any], action: Callable[[], object]) -> httpx.Response:
    """Read a whole stream; the action runs when its first bytes have come, so the request waits at the proxy."""
    with HTTP.stream("POST", proxy.url + path, json=body, headers=OWNER) as response:
        assert response.status_code == 200
        pieces = response.iter_bytes()
        first = next(pieces)
        action()
        data = first + b"".join(pieces)
    check_stream(path, data)
    return httpx.Response(200, headers=response.headers, content=data)


def create_waiting(proxy: RunningProxy, name: str, phase: Phase = Phase.STARTING) -> Deployment:
    """Create a deployment that is not ready, and wait until the proxy knows it."""
    record = proxy.environment.store.create(make_deployment(name, f"org/{name}", phase, 1))
    wait_for_status(proxy, 529, name)
    return record


def _last_object(response: httpx.Response) -> dict[str, Any]:
    events = [event for event in parse_stream([response.content]) if event.data and event.data != b"[DONE]"]
    found: dict[str, Any] = events[-1].json()
    return found


class AvailabilityContract:
    """Models with several replicas or none."""

    def test_conversation_stays_with_its_replica(self, proxy: RunningProxy) -> None:
        second = make_deployment("second", MODEL, slot=1)
        with behind_slot(proxy, 1, "second") as other:
            proxy.environment.store.create(second)
            wait_for_status(proxy, 200, "second")
            fakes = (proxy.environment.vllm, other)
            replicas = [{self._serving_replica(proxy, fakes, f"SAY[hi {n}]") for _ in range(2)} for n in range(8)]
            assert all(len(used) == 1 for used in replicas)
            assert {next(iter(used)) for used in replicas} == {0, 1}
            assert self._serving_replica(proxy, fakes, "SAY[by name]", model="second") == 1
            proxy.environment.move(second.id, Phase.ENDED)
            wait_for_status(proxy, 404, "second")
            assert {self._serving_replica(proxy, fakes, f"SAY[hi {n}]") for n in range(4)} == {0}

    def _serving_replica(
        self, proxy: RunningProxy, fakes: tuple[FakeVLLM, FakeVLLM], text: str, model: str = MODEL
    ) -> int:
        before = [len(fake.requests) for fake in fakes]
        assert post(proxy, MESSAGES, chat_body(text, model=model)).status_code == 200
        served = [len(fake.requests) - count for fake, count in zip(fakes, before, strict=True)]
        assert sorted(served) == [0, 1]
        return served.index(1)

    def test_unreachable_replica_is_skipped(self, proxy: RunningProxy) -> None:
        proxy.environment.store.create(make_deployment("dead", MODEL, slot=2))
        wait_for_status(proxy, 529, "dead")
        for n in range(6):
            assert post(proxy, MESSAGES, chat_body(f"SAY[{n}]", model=MODEL)).status_code == 200

    def test_tier_reaches_all_replicas(self, proxy: RunningProxy) -> None:
        request = LaunchRequest(model=MODEL, serve_as=("haiku",))
        second = make_deployment("second", MODEL, slot=1, request=request)
        with behind_slot(proxy, 1, "second") as other:
            proxy.environment.store.create(second)
            wait_for_status(proxy, 200, "second")
            fakes, numbers = (proxy.environment.vllm, other), count()

            def both_serve() -> bool:
                # while a request of an earlier test is open, its replica gets no new conversation
                texts = [f"SAY[{number}]" for number in islice(numbers, 8)]
                return {self._serving_replica(proxy, fakes, text, "claude-haiku-4-5") for text in texts} == {0, 1}

            wait_for(both_serve)

    def test_messages_stream_waits_until_the_model_is_ready(self, proxy: RunningProxy) -> None:
        record = create_waiting(proxy, "soon")
        with behind_slot(proxy, 1, "soon"):
            body = chat_body("SAY[at last]", model="soon", stream=True)
            response = post_and_act(proxy, MESSAGES, body, lambda: proxy.environment.move(record.id, Phase.READY))
        events = parse_stream([response.content])
        assert events[0].name == "ping" and anthropic_text(events) == "at last"
        assert events[-1].name == "message_stop"

    def test_chat_stream_waits_with_comments(self, proxy: RunningProxy) -> None:
        record = create_waiting(proxy, "soon")
        with behind_slot(proxy, 1, "soon"):
            body = chat_body("SAY[at last]", model="soon", stream=True)
            response = post_and_act(proxy, CHAT, body, lambda: proxy.environment.move(record.id, Phase.READY))
        assert response.content.startswith(b": ")
        assert chat_text(chat_chunks(response)) == "at last"

    def test_wait_that_times_out_ends_with_an_error_of_the_dialect(self, proxy: RunningProxy) -> None:
        create_waiting(proxy, "never")
        body = {**chat_body("x", model="never", stream=True), "input": "x"}
        paths, began = (MESSAGES, CHAT, RESPONSES), time.monotonic()
        with ThreadPoolExecutor() as threads:
            responses = dict(zip(paths, threads.map(lambda path: post(proxy, path, body), paths), strict=True))
        assert time.monotonic() - began >= HOLD_S
        assert {response.status_code for response in responses.values()} == {200}
        messages, chat, final = (_last_object(responses[path]) for path in paths)
        assert (messages["type"], messages["error"]["type"]) == ("error", "overloaded_error")
        assert "type" not in chat and final["type"] == "response.failed"
        for error in (messages["error"], chat["error"], final["response"]["error"]):
            assert "never is starting" in error["message"]

    def test_wait_ends_when_the_deployment_ends(self, proxy: RunningProxy) -> None:
        record = create_waiting(proxy, "gone", Phase.QUEUED)
        body = chat_body("x", model="gone", stream=True)
        response = post_and_act(proxy, MESSAGES, body, lambda: proxy.environment.move(record.id, Phase.ENDED))
        assert parse_stream([response.content])[-1].json()["error"]["type"] == "not_found_error"

    def test_request_without_stream_does_not_wait(self, proxy: RunningProxy) -> None:
        create_waiting(proxy, "soon")
        response = post(proxy, MESSAGES, chat_body("x", model="soon"))
        assert response.status_code == 529 and int(response.headers["retry-after"]) > 0

    def test_client_that_disconnects_no_longer_waits(self, proxy: RunningProxy) -> None:
        create_waiting(proxy, "soon")
        body = chat_body("x", model="soon", stream=True)
        with HTTP.stream("POST", proxy.url + MESSAGES, json=body, headers=OWNER) as response:
            assert response.status_code == 200
            assert f"{WAITING_METRIC} 1.0" in metrics_text(proxy)
        wait_for(lambda: f"{WAITING_METRIC} 0.0" in metrics_text(proxy))

    def test_stream_waits_for_a_lost_tunnel(self, proxy: RunningProxy) -> None:
        proxy.environment.store.create(make_deployment("away", "org/Away", Phase.READY, 3))
        wait_for(lambda: post(proxy, COUNT, chat_body("x", model="away")).status_code == 529)
        with ExitStack() as opened, serve_model(free_port(), "away") as vllm:
            tunnel = PortRelay(proxy.environment.slot_base_port + 3, vllm.port)
            timer = threading.Timer(0.8, opened.enter_context, (tunnel,))
            timer.start()
            response = post(proxy, MESSAGES, chat_body("SAY[again]", model="away", stream=True))
            timer.join()
        assert anthropic_text(parse_stream([response.content])) == "again"
