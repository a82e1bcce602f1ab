"""The contract over the direct backend, and what only this backend guarantees."""

from __future__ import annotations

import time
import tracemalloc

from bouchet_proxy.backends.direct import MAX_PROMPT_ENDS, PromptEndCache

from tests.proxy.backends.contract import BackendContract
from tests.proxy.client import CHAT, HTTP, MESSAGES, OWNER, chat_body, post
from tests.proxy.environment import RunningProxy
from tests.waiting import wait_for


def test_prompt_end_cache_keeps_a_limited_number_of_hashes() -> None:
    cache = PromptEndCache()
    tracemalloc.start()
    for number in range(MAX_PROMPT_ENDS + 50):
        cache.put(0, "job-1", b"%d" % number * 10_000, True)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a request has at least 10,000 bytes; other threads of this process may have allocated some
    assert kept_bytes < 1_000 * MAX_PROMPT_ENDS
    assert cache.get(0, "job-1", b"%d" % 0 * 10_000) is None
    assert cache.get(0, "job-1", b"%d" % (MAX_PROMPT_ENDS + 49) * 10_000) is True


def test_prompt_end_cache_forgets_an_ended_job() -> None:
    cache = PromptEndCache()
    cache.put(0, "job-1", b"x", True)
    assert (cache.get(0, "job-2", b"x"), cache.get(1, "job-1", b"x"), cache.get(0, "job-1", b"x")) == (None, None, True)
    cache.put(0, "job-2", b"x", False)
    assert (cache.get(0, "job-2", b"x"), cache.get(0, "job-1", b"x")) == (False, None)


class TestDirectBackend(BackendContract):
    def test_request_after_the_pooled_connection_was_closed_succeeds(self, proxy: RunningProxy) -> None:
        for path in (MESSAGES, CHAT):
            assert post(proxy, path, chat_body("SAY[a]")).status_code == 200
            time.sleep(0.05)
            assert post(proxy, path, chat_body("SAY[a]")).status_code == 200

    def test_disconnect_in_a_stream_stops_the_model(self, proxy: RunningProxy) -> None:
        before = proxy.environment.vllm.aborted
        # a stream of minutes: a client that waits for its end reads nothing within the limit
        body = chat_body(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
        with HTTP.stream("POST", proxy.url + MESSAGES, json=body, headers=OWNER) as response:
            assert any(b"content_block_delta" in piece for piece in response.iter_raw())
        wait_for(lambda: proxy.environment.vllm.aborted == before + 1)
