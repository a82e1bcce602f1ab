"""The contract over the proxy as its container runs it: everything through LiteLLM, then with the direct backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.backends.contract import BackendContract
from tests.proxy.environment import ProxyEnvironment, RunningProxy, run_proxy_process

# MiB that the proxy may hold after all requests of the contract
MAX_RESIDENT_MIB = 400


@pytest.fixture(scope="module", params=[False, True], ids=["litellm", "direct"])
def proxy(environment: ProxyEnvironment, request: pytest.FixtureRequest) -> Iterator[RunningProxy]:
    with run_proxy_process(environment, direct=request.param) as proxy:
        yield proxy


class TestLiteLLMBackend(BackendContract):
    def test_resident_memory_stays_below_the_limit(self, proxy: RunningProxy) -> None:
        pages = int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1])
        assert pages * 4 / 1024 <= MAX_RESIDENT_MIB
