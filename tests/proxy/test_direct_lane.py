"""The contract over the direct lane, and what only the lane promises."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.proxy.contract import CHAT, MESSAGES, Contract, ask, post, until
from tests.proxy.running import KEY, Door, Ground, front_in_thread
from tests.proxy.serving_contract import ServingContract


@pytest.fixture(scope="module")
def door(ground: Ground) -> Iterator[Door]:
    with front_in_thread(ground) as door:
        yield door


class TestDirectLane(ServingContract, Contract):
    def test_an_answer_after_the_pooled_connection_was_closed(self, door: Door) -> None:
        for path in (MESSAGES, CHAT):
            assert post(door, path, ask("SAY[a]")).status_code == 200
            time.sleep(0.05)
            assert post(door, path, ask("SAY[a]")).status_code == 200

    def test_bytes_arrive_as_they_come_and_a_client_that_leaves_stops_the_model(self, door: Door) -> None:
        counter = f"http://127.0.0.1:{door.ground.fake.port}/fake/aborted"
        before = httpx.get(counter, timeout=30).json()
        # a stream of minutes: whoever waits for its end reads nothing within the limit
        body = ask(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
        with httpx.stream("POST", door.url + MESSAGES, json=body, headers={"x-api-key": KEY}, timeout=30) as answer:
            assert any(b"content_block_delta" in piece for piece in answer.iter_raw())
        until(lambda: httpx.get(counter, timeout=30).json() == before + 1)
