"""The API over ASGI for requests, and on a port for streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from bouchet_api.app import create_app
from bouchet_api.dashboard.sign_outs import SignOuts
from bouchet_api.dependencies import AppState, open_state
from bouchet_core.gateway_client import NO_TLS
from fastapi import FastAPI

from tests.conftest import RedisServer
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import ADMIN_KEY, RunningApi, reset_api, running_api_and_redis, settings


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        yield gateway


@pytest.fixture
def state(tmp_path: Path, redis_server: RedisServer, gateway: FakeGateway) -> Iterator[AppState]:
    with open_state(settings(tmp_path, redis_server, gateway)) as state:
        yield state


@pytest.fixture(scope="session")
def apps() -> list[FastAPI]:
    return []


@pytest.fixture
def app(state: AppState, apps: list[FastAPI]) -> FastAPI:
    """Return the app over this test's state. There is one for all tests: FastAPI takes long to analyse the routes."""
    if not apps:
        apps.append(create_app(state, ADMIN_KEY))
    apps[0].state.bouchet = state
    apps[0].state.sessions.sign_outs = SignOuts(state.store.sign_outs)
    return apps[0]


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client with the key, over ASGI."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
        yield client


@pytest.fixture(scope="session")
def running_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api_and_redis(tmp_path_factory.mktemp("api")) as api:
        yield api


@pytest.fixture
def live_api(running_api: RunningApi) -> RunningApi:
    """Return the API on a port, without records."""
    return reset_api(running_api)


@pytest.fixture
def client(live_api: RunningApi) -> Iterator[httpx.Client]:
    """Return a client with the key, of the API on a port."""
    with httpx.Client(
        base_url=live_api.url, headers={"x-api-key": ADMIN_KEY}, timeout=60, trust_env=False, verify=NO_TLS
    ) as client:
        yield client
