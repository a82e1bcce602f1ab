"""Fixtures: a real SSH server, a real Redis, and a gateway between them, all in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_core.store import Store
from bouchet_gateway.gateway import Gateway

from .login_node import LoginNode
from .running import api_client, connected, echo, serve_behind, tcp_server


@pytest.fixture
async def login_node(tmp_path: Path) -> AsyncIterator[LoginNode]:
    node = LoginNode(tmp_path)
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
def ssh_changes() -> dict[str, Any]:
    """Return changes of the gateway's SshSettings. Tests that carry bytes override it by `fast_and_plain`."""
    return {}


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def fast_and_plain(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return settings with the SSH fast path on, and off."""
    return {"fast_path": request.param}


@pytest.fixture
async def gateway(login_node: LoginNode, store: Store, ssh_changes: dict[str, Any]) -> AsyncIterator[Gateway]:
    """Yield a gateway that is connected to the login node."""
    async with connected(login_node, store, ssh=ssh_changes) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the gateway's internal API."""
    async with api_client(gateway) as client:
        yield client


@pytest.fixture
async def echo_slot(gateway: Gateway, store: Store) -> AsyncIterator[int]:
    """Yield the port of slot 0, with an echo server behind it."""
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port)
        yield gateway.forwarder.ports[0]
