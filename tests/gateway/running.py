"""Gateways for tests: settings, records behind slots, TCP servers, and waiting for a state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bouchet_core.config.site import Partition, Site, SiteImage, SiteLogin
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase
from bouchet_core.store import RedisLogin, Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits, GatewaySettings, SshSettings
from pydantic import SecretStr

from tests.conftest import GATEWAY_TOKEN, free_job_port

from .login_node import LoginNode

# the worker's, and the API's
TOKEN, API_TOKEN = GATEWAY_TOKEN, "api-token"
USER = "researcher"
REMOTE = Path(__file__).parents[2] / "remote"
REQUEST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"

StreamHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def make_site(node: LoginNode) -> Site:
    """Return a site whose login node is `node`."""
    return Site(
        name="test",
        login=SiteLogin(host="127.0.0.1", port=node.port, user=USER),
        root="~/bouchet",
        models_dir=str(node.home / "models"),
        images_dir="~/images",
        default_image="x",
        images=(SiteImage(pin="x", vllm="0"),),
        partitions=(Partition(name="gpu", max_walltime="1:00:00"),),
    )


def make_settings(node: LoginNode, *, ssh: dict[str, Any] | None = None, **changes: Any) -> GatewaySettings:
    """Return settings of a gateway for that login node. ssh: changes of its SshSettings."""
    ssh_settings = SshSettings(
        hosts=("127.0.0.1",),
        ssh_dir=node.ssh_dir,
        data_dir=node.ssh_dir.parent / "data",
        user=USER,
        port=node.port,
        # a machine that pauses for a second under load has not lost its connection
        keepalive_interval_s=0.2,
        keepalive_count=6,
        connect_timeout_s=5,
    )
    settings = GatewaySettings(
        ssh=ssh_settings.model_copy(update=ssh or {}),
        site=make_site(node),
        remote_dir=REMOTE,
        gateway_token_api=SecretStr(API_TOKEN),
        gateway_token_worker=SecretStr(TOKEN),
        redis_password=SecretStr("unused"),
        limits=GatewayLimits(hold_s=20, open_timeout_s=2),
        slot_host="127.0.0.1",
        slot_base_port=0,
        slot_count=2,
        prompt_timeout_s=5,
    )
    return settings.model_copy(update=changes)


@contextlib.asynccontextmanager
async def started(
    node: LoginNode, store: Store, *, ssh: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway for that login node, with changes of its settings."""
    with contextlib.closing(with_rights_of("gateway", store)) as own:
        gateway = Gateway(make_settings(node, ssh=ssh, **changes), own)
        async with gateway.running():
            yield gateway


def with_rights_of(user: str, store: Store) -> Store:
    """Return a store on the same Redis that has the rights of a service."""
    with contextlib.closing(store.queue_connection()) as connection:
        known = connection.get_connection_kwargs()
    return Store.connect(RedisLogin(known["host"], known["port"], known["password"], user))


@contextlib.asynccontextmanager
async def connected(
    node: LoginNode, store: Store, *, ssh: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway as `started` does, and wait until its tunnel is up."""
    async with started(node, store, ssh=ssh, **changes) as gateway:
        await wait_for_state(gateway, TunnelState.UP)
        yield gateway


async def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for a condition that no event announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def wait_for_state(gateway: Gateway, state: TunnelState) -> TunnelStatus:
    """Return the status once the tunnel is in that state."""
    await wait_until(lambda: gateway.tunnel.status().state is state)
    return gateway.tunnel.status()


async def wait_for_reconnect(gateway: Gateway) -> TunnelStatus:
    """Return the status once the tunnel was connected a second time."""
    await wait_until(lambda: gateway.tunnel.status().reconnects == 1)
    return gateway.tunnel.status()


async def wait_for_prompt(gateway: Gateway, after: TunnelStatus | None = None) -> TunnelStatus:
    """Return the status once a prompt is open, another than that of `after`."""
    before = after.prompt if after else None
    await wait_until(lambda: gateway.tunnel.status().prompt not in (None, before))
    return gateway.tunnel.status()


def api_client(gateway: Gateway, token: str = TOKEN) -> httpx.AsyncClient:
    """Return a client of the gateway's internal API."""
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers={"Authorization": f"Bearer {token}"}
    )


async def post(gateway: Gateway, path: str, **body: object) -> httpx.Response:
    """Post a body to the internal API, as the service that does so."""
    async with api_client(gateway, TOKEN if path == "/v1/run" else API_TOKEN) as client:
        return await client.post(path, json=body)


async def answer_prompt(gateway: Gateway, status: TunnelStatus, *responses: str) -> int:
    """Answer the prompt of that status over the internal API; return the HTTP status."""
    assert status.prompt is not None
    return (await post(gateway, "/v1/answer", prompt_id=status.prompt.id, responses=list(responses))).status_code


def serve_behind(store: Store, slot: int, port: int | None, node: str = "127.0.0.1", **fields: Any) -> None:
    """Create a record whose job listens at that port, behind that slot. fields: further fields of the job."""
    now = datetime.now(UTC)
    job = Job(name=f"job-{slot}", slot=slot, phase=Phase.READY, node=node, port=port, **fields)
    first = Deployment(
        id=f"d{slot}",
        model="m",
        names=(f"name-{slot}",),
        request=LaunchRequest(model="m"),
        phase=Phase.READY,
        created_at=now,
        updated_at=now,
    )
    store.create(first)
    store.save(first.with_job(job, now))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what arrives."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def talk(port: int, data: bytes) -> bytes:
    """Send the bytes and EOF; return what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def tcp_server(handle: StreamHandler) -> AsyncIterator[int]:
    """Run a TCP server on a port that jobs choose; yield the port."""
    handlers: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await handle(reader, writer)
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", free_job_port())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        if handlers:
            _, left = await asyncio.wait(handlers, timeout=1)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
