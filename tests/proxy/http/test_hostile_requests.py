"""Requests that are made to cost much are refused, and other clients get their answers meanwhile.

`python -m tests.soak.hostile_requests` measures the same: seconds, memory, and what Redis grows by.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_core.store import Store

from tests.conftest import RedisServer
from tests.proxy.environment import RunningProxy
from tests.soak.hostile_requests import (
    ATTACKS,
    HARMLESS,
    Attack,
    OtherClient,
    fill_usage,
    peak_mib,
    post,
    running_proxy,
)

MOST_MIB = 700.0
REQUESTS, MOST_GROWTH_MIB = 20_000, 20.0


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with running_proxy(tmp_path_factory.mktemp("attacked")) as proxy:
        yield proxy


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.title)
def test_hostile_request_is_refused_and_others_are_served(attacked: RunningProxy, attack: Attack) -> None:
    with OtherClient(attacked) as other:
        status, _ = post(attacked.url, attack)
    assert status in attack.statuses
    assert other.seconds or post(attacked.url, HARMLESS)[0] == 200
    assert peak_mib(attacked) < MOST_MIB


def test_sessions_of_unknown_models_do_not_fill_redis(store: Store, redis_server: RedisServer) -> None:
    assert fill_usage(store, REQUESTS) < MOST_GROWTH_MIB
