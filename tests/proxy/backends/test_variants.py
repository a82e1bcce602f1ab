"""The conformance table's variants, with the fake in the model's place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_core.deployments import Phase

from tests.conformance.run import Target, run_cases
from tests.conformance.variant_cases import CASES
from tests.proxy.client import wait_for_status
from tests.proxy.environment import ALIAS, KEY, RunningProxy, make_deployment


@pytest.fixture(scope="module")
def target(proxy: RunningProxy) -> Iterator[Target]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield Target("this proxy", proxy.url, KEY, {"scripted": ALIAS}, is_ours=True)
    proxy.environment.move(record.id, Phase.ENDED)
    wait_for_status(proxy, 404)


def test_variants_are_right(target: Target) -> None:
    verdicts = run_cases(target, CASES)
    assert {one.case: one.problem for one in verdicts if one.problem} == {}
    assert len({one.case for one in verdicts}) == len(CASES) >= 30
