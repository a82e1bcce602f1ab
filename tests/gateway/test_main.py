"""The process: starts from files and environment, serves, stops in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from bouchet_core.errors import ConfigurationError, NotAllowedError
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.settings import GatewaySettings

from tests.conftest import RedisServer, free_port

from .conftest import TOKEN, LoginNode, make_site, until


@pytest.fixture
def environ(login_node: LoginNode, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """What compose gives the container."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "gateway_token").write_text(TOKEN + "\n")
    (secrets / "redis_password").write_text(redis_server.password + "\n")
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump(make_site(login_node).model_dump(mode="json", exclude_defaults=True)))
    return {
        "BOUCHET_SITE_FILE": str(site),
        "BOUCHET_HOST": "",
        "SECRETS_DIR": str(secrets),
        "SSH_DIR": str(login_node.ssh_dir),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
        "GATEWAY_PORT": str(free_port()),
        "SLOT_BASE_PORT": "0",
        "SLOT_COUNT": "2",
    }


@asynccontextmanager
async def started(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bouchet_gateway", env=inherited | environ, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_serves_the_other_rooms_and_stops_in_order(environ: dict[str, str], login_node: LoginNode) -> None:
    url = f"http://127.0.0.1:{environ['GATEWAY_PORT']}"

    def alive() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=30).is_success
        except httpx.TransportError:
            return False

    login_node.program("squeue", '#!/bin/sh\necho "$1"\n')
    async with started(environ) as process:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(alive):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with GatewayClient(url, TOKEN) as client:
            assert (await asyncio.to_thread(client.run, ["squeue", "it's me"])).stdout == "it's me\n"
            await asyncio.to_thread(client.put, "~/bouchet/x", b"data", 0o640)
            assert (await asyncio.to_thread(client.get, "~/bouchet/x", -2)).data == b"ta"
            many = {f"~/bouchet/new/folder/{number}": b"%d" % number for number in range(20)}
            await asyncio.to_thread(client.put_all, many)
            assert {path: (login_node.home / path[2:]).read_bytes() for path in many} == many
            with pytest.raises(NotAllowedError):
                await asyncio.to_thread(client.put_all, {**many, "/etc/passwd": b""})
            assert (await asyncio.to_thread(client.status)).state is TunnelState.UP
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    await until(lambda: not login_node.connections)
    assert login_node.accepted == 1


async def test_a_missing_secret_is_said_and_ends_it(environ: dict[str, str]) -> None:
    (Path(environ["SECRETS_DIR"]) / "gateway_token").unlink()
    async with started(environ) as process:
        _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"gateway_token" in said
    assert b"Traceback" not in said


def test_the_alias_of_the_person_wins_over_the_site(environ: dict[str, str], login_node: LoginNode) -> None:
    assert GatewaySettings.from_environment(environ).ssh.hosts == ("127.0.0.1",)
    assert GatewaySettings.from_environment(environ).ssh.port == login_node.port
    own = GatewaySettings.from_environment(environ | {"BOUCHET_HOST": "my-cluster"}).ssh
    assert (own.hosts, own.port) == (("my-cluster",), None)
    assert GatewaySettings.from_environment(environ | {"BOUCHET_HOST": "one, two"}).ssh.hosts == ("one", "two")


def test_a_missing_site_file_is_a_configuration_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        GatewaySettings.from_environment(environ | {"BOUCHET_SITE_FILE": "/none.yaml"})
