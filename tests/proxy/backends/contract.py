"""The contract of both backends: what a client gets, whichever backend serves it. Subclasses use a `proxy` fixture.

The parts are in the files beside this one: requests and responses, errors, availability.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_core.deployments import Deployment, Phase

from tests.proxy.backends.contract_availability import AvailabilityContract
from tests.proxy.backends.contract_errors import ErrorContract
from tests.proxy.backends.contract_openai import OpenAIContract
from tests.proxy.backends.contract_requests import RequestContract
from tests.proxy.client import wait_for_status
from tests.proxy.environment import RunningProxy, make_deployment


class BackendContract(RequestContract, ErrorContract, OpenAIContract, AvailabilityContract):
    """All tests of the contract, each with one ready deployment."""

    @pytest.fixture(autouse=True)
    def deployment(self, proxy: RunningProxy) -> Iterator[Deployment]:
        """Create the model's deployment, ready; end all deployments after the test."""
        store = proxy.environment.store
        record = store.create(make_deployment())
        wait_for_status(proxy, 200)
        yield record
        for live in store.live():
            proxy.environment.move(live.id, Phase.ENDED)
        wait_for_status(proxy, 404)
