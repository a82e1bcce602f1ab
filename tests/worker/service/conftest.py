"""Fixtures: a service under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from bouchet_worker.context import WorkerContext

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm, serve_http
from tests.fakes.vllm.worker_server import worker_vllm
from tests.worker.scenario import Clock
from tests.worker.service.running import ManySlots, Service


@pytest.fixture
def service(context: WorkerContext, redis_server: RedisServer, slurm: FakeSlurm, clock: Clock) -> Iterator[Service]:
    servers = [worker_vllm(window=4321, version="0.32.0+cpu") for _ in range(3)]
    with ExitStack() as stack:
        proxy = stack.enter_context(closing(redis_server.store("proxy")))
        probe = ManySlots([stack.enter_context(serve_http(server)) for server in servers])
        yield Service(context, proxy, slurm, clock, probe, servers)
        probe.close()
