"""The contract over the proxy as its container runs it: everything through LiteLLM, then with the direct backend."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bouchet_core.keys import ApiKey, sha256_of

from tests.proxy.backends.contract import BackendContract
from tests.proxy.client import CHAT, HTTP, MESSAGES, chat_body, post
from tests.proxy.environment import ProxyEnvironment, RunningProxy, run_proxy_process
from tests.waiting import wait_for

# MiB that the proxy may hold after all requests of the contract
MAX_RESIDENT_MIB = 400


@pytest.fixture(scope="module", params=[False, True], ids=["litellm", "direct"])
def proxy(environment: ProxyEnvironment, request: pytest.FixtureRequest) -> Iterator[RunningProxy]:
    with run_proxy_process(environment, direct=request.param) as proxy:
        yield proxy


class TestLiteLLMBackend(BackendContract):
    def test_fields_that_only_vllm_knows_reach_it(self, proxy: RunningProxy) -> None:
        later = {"name": "later", "input_schema": {"type": "object"}, "defer_loading": True}
        tools = [{"name": "now", "input_schema": {"type": "object"}}, later]
        assert post(proxy, MESSAGES, chat_body("SAY[ok]", tools=tools)).status_code == 200
        head = proxy.environment.vllm.last_body["chat_template_kwargs"]["tools"]
        assert [tool["function"]["name"] for tool in head] == ["now"]
        secret = f"key-of-bob-{proxy.url[-5:]}"
        holder = ApiKey(name=secret, sha256=sha256_of(secret), ending="test", created_at=datetime.now(UTC))
        proxy.environment.store.api_keys.add(holder)
        headers = {"x-api-key": secret}
        wait_for(lambda: HTTP.get(f"{proxy.url}/v1/models", headers=headers).status_code == 200)
        for path in (MESSAGES, CHAT):
            assert HTTP.post(proxy.url + path, json=chat_body("x"), headers=headers).status_code == 200
            assert proxy.environment.vllm.last_body["cache_salt"], path

    def test_resident_memory_stays_below_the_limit(self, proxy: RunningProxy) -> None:
        pages = int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1])
        assert pages * 4 / 1024 <= MAX_RESIDENT_MIB
