"""The contract over the proxy as the container runs it: everything through LiteLLM, then with the direct lane."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.contract import Contract
from tests.proxy.running import Door, Ground, whole_proxy
from tests.proxy.serving_contract import ServingContract

# MiB that the proxy may hold after a whole contract's requests
MOST_RESIDENT_MIB = 400


@pytest.fixture(scope="module", params=[False, True], ids=["litellm", "lane"])
def door(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Door]:
    with whole_proxy(ground, direct_lane=request.param) as door:
        yield door


class TestWholeProxy(ServingContract, Contract):
    def test_its_memory(self, door: Door) -> None:
        pages = int(Path(f"/proc/{door.pid}/statm").read_text().split()[1])
        assert pages * 4 / 1024 <= MOST_RESIDENT_MIB
