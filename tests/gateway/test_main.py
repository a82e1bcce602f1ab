"""The gateway's process: starts from variables and files, serves its client, stops in order."""

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
from bouchet_core.gateway_client import NO_TLS, GatewayClient
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.settings import GatewaySettings

from tests.conftest import RedisServer, free_port

from .login_node import LoginNode
from .running import API_TOKEN, REMOTE, TOKEN, make_site, wait_until


@pytest.fixture
def environ(login_node: LoginNode, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """Return the variables of the gateway's container."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for role, token in (("worker", TOKEN), ("api", API_TOKEN)):
        (secrets / f"gateway_token_{role}").write_text(token + "\n")
    (secrets / "redis_password").write_text(redis_server.password + "\n")
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump(make_site(login_node).model_dump(mode="json", exclude_defaults=True)))
    return {
        "BOUCHET_SITE_FILE": str(site),
        "BOUCHET_HOST": "",
        "SECRETS_DIR": str(secrets),
        "SSH_DIR": str(login_node.ssh_dir),
        "REMOTE_DIR": str(REMOTE),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
        "GATEWAY_PORT": str(free_port()),
        "SLOT_BASE_PORT": "0",
        "SLOT_COUNT": "2",
    }


@asynccontextmanager
async def gateway_process(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
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


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=30, verify=NO_TLS).is_success
    except httpx.TransportError:
        return False


def use_client(url: str, home: Path) -> None:
    """Call every method of the client that needs the cluster."""
    with GatewayClient(url, TOKEN) as client:
        assert client.run(["squeue", "it's me"]).stdout == "it's me\n"
        client.put("~/bouchet/jobs/x", b"data", 0o640)
        chunk = client.get("~/bouchet/jobs/x", -2)
        assert (chunk.data, chunk.size) == (b"ta", 4)
        many = {f"~/bouchet/jobs/folder/{number}": b"%d" % number for number in range(20)}
        client.put_all(many)
        assert {path: (home / path[2:]).read_bytes() for path in many} == many
        with pytest.raises(NotAllowedError):
            client.put_all({**many, "/etc/passwd": b""})
        assert client.status().state is TunnelState.UP


async def test_main_serves_client_and_exits_0_on_sigterm(environ: dict[str, str], login_node: LoginNode) -> None:
    url = f"http://127.0.0.1:{environ['GATEWAY_PORT']}"
    login_node.program("squeue", '#!/bin/sh\necho "$1"\n')
    async with gateway_process(environ) as process:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(is_healthy, url):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.to_thread(use_client, url, login_node.home)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    await wait_until(lambda: not login_node.connections)
    assert login_node.accepted == 1


@pytest.mark.slow
async def test_main_missing_secret_exits_2_with_its_name(environ: dict[str, str]) -> None:
    (Path(environ["SECRETS_DIR"]) / "gateway_token_api").unlink()
    async with gateway_process(environ) as process:
        _, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"gateway_token_api" in stderr
    assert b"Traceback" not in stderr


def test_settings_alias_of_user_replaces_login_host_of_site(environ: dict[str, str], login_node: LoginNode) -> None:
    of_site = GatewaySettings.from_environment(environ).ssh
    assert (of_site.hosts, of_site.port) == (("127.0.0.1",), login_node.port)
    own = GatewaySettings.from_environment(environ | {"BOUCHET_HOST": "my-cluster"}).ssh
    assert (own.hosts, own.port) == (("my-cluster",), None)
    assert GatewaySettings.from_environment(environ | {"BOUCHET_HOST": "one, two"}).ssh.hosts == ("one", "two")


@pytest.mark.parametrize(("text", "expected"), [("", True), ("on", True), ("off", False)])
def test_settings_fast_path_switch(environ: dict[str, str], text: str, expected: bool) -> None:
    assert GatewaySettings.from_environment(environ | {"SSH_FAST_PATH": text}).ssh.fast_path is expected


@pytest.mark.parametrize("change", [{"BOUCHET_SITE_FILE": "/none.yaml"}, {"SSH_FAST_PATH": "fast"}])
def test_settings_invalid_raise_configuration_error(environ: dict[str, str], change: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        GatewaySettings.from_environment(environ | change)
