"""What a running proxy admits behind a valid key, before it reads, parses or waits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase

from tests.proxy.client import CHAT, HTTP, MESSAGES, OWNER, chat_body, error_of, post, wait_for_status
from tests.proxy.environment import ALIAS, ProxyEnvironment, RunningProxy, make_deployment, run_app, run_direct_process
from tests.waiting import wait_for

MAX_REQUESTS, MAX_BYTES = 3, 100_000
MANY_VALUES_MIB, MAX_GROWTH_MIB = 16, 100
SLOW = chat_body(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)


@pytest.fixture(scope="module", autouse=True)
def ready(environment: ProxyEnvironment) -> Iterator[None]:
    record = environment.store.create(make_deployment())
    yield
    environment.move(record.id, Phase.ENDED)


@pytest.fixture(scope="module")
def small(environment: ProxyEnvironment) -> Iterator[RunningProxy]:
    """Run the app with small limits."""
    with run_app(environment, max_requests=MAX_REQUESTS, max_bytes=MAX_BYTES) as proxy:
        wait_for_status(proxy, 200)
        yield proxy


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_request_beyond_those_under_way_is_refused_until_one_ends(small: RunningProxy, path: str) -> None:
    with ExitStack() as open_streams:
        for _ in range(MAX_REQUESTS):
            open_streams.enter_context(HTTP.stream("POST", small.url + MESSAGES, json=SLOW, headers=OWNER))
        refused = post(small, path, chat_body("x"))
        assert (refused.status_code, error_of(refused)["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0
        passthrough = HTTP.get(f"{small.url}/passthrough/{ALIAS}/version", headers=OWNER)
        assert passthrough.status_code == 429
    wait_for(lambda: post(small, path, chat_body("x")).status_code == 200)


def test_bytes_of_held_requests_count(small: RunningProxy) -> None:
    small.environment.store.create(held := make_deployment("held", "org/Held", phase=Phase.STARTING, slot=1))
    body = chat_body("x" * (MAX_BYTES * 2 // 3), model="held", stream=True)
    wait_for_status(small, 529, "held")
    with HTTP.stream("POST", small.url + MESSAGES, json=body, headers=OWNER) as waiting:
        assert waiting.status_code == 200
        refused = HTTP.post(small.url + MESSAGES, json=chat_body("x" * (MAX_BYTES // 2)), headers=OWNER)
        assert (refused.status_code, "bytes" in error_of(refused)["message"]) == (429, True)
        assert post(small, MESSAGES, chat_body("x")).status_code == 200
    wait_for(lambda: post(small, MESSAGES, chat_body("x" * (MAX_BYTES // 2))).status_code != 429)
    small.environment.move(held.id, Phase.ENDED)


def test_chunked_body_is_counted_as_it_comes(small: RunningProxy) -> None:
    pieces = (b"x" * 10_000 for _ in range(2 * MAX_BYTES // 10_000))
    refused = HTTP.post(small.url + MESSAGES, content=pieces, headers=OWNER)
    assert refused.status_code == 429
    assert post(small, MESSAGES, chat_body("x")).status_code == 200


def test_compressed_body_is_counted_as_it_is_decompressed(small: RunningProxy) -> None:
    packed = gzip.compress(json.dumps(chat_body("x" * 2 * MAX_BYTES)).encode())
    assert len(packed) < MAX_BYTES // 2
    assert post(small, MESSAGES, packed, **{"content-encoding": "gzip"}).status_code == 429
    assert post(small, MESSAGES, chat_body("x"), **{"content-encoding": "identity"}).status_code == 200


def test_large_body_is_served(proxy: RunningProxy) -> None:
    wait_for_status(proxy, 200)
    body = chat_body("SAY[a]", metadata={"filler": "é" * (3 << 20)})
    assert post(proxy, MESSAGES, body).json()["content"][0]["text"] == "a"


def resident_mib(proxy: RunningProxy) -> float:
    return int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1]) * 4 / 1024


def test_body_of_many_values_is_refused_without_the_memory(environment: ProxyEnvironment) -> None:
    values = b"[]," * (MANY_VALUES_MIB * (1 << 20) // 3) + b"[]"
    data = b'{"model":"x","messages":[' + values + b"]}"
    with run_direct_process(environment) as process:
        before = resident_mib(process)
        with ThreadPoolExecutor(2) as clients:
            asked = [clients.submit(post, process, MESSAGES, data) for _ in range(2)]
            assert [one.result().status_code for one in asked] == [413, 413]
        assert resident_mib(process) - before < MAX_GROWTH_MIB
