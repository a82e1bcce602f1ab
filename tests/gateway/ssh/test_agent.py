"""The agent's socket, with OpenSSH's own agent behind it: nothing but it holds the key."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, make_settings, reached


@pytest.fixture
def key(login_node: LoginNode, tmp_path: Path) -> Path:
    """The accepted key, encrypted, where the gateway does not look."""
    path = tmp_path / "elsewhere"
    (login_node.ssh_dir / "id_ed25519").rename(path)
    path.chmod(0o600)
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """A running agent that holds no key."""
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
        yield socket
        process.terminate()


def add(agent: Path, key: Path) -> None:
    environ = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True, stdin=subprocess.DEVNULL)


def gateway_with(agent: Path, login_node: LoginNode, store: Store) -> Gateway:
    settings = make_settings(login_node)
    return Gateway(
        settings.model_copy(update={"ssh": settings.ssh.model_copy(update={"agent_socket": str(agent)})}), store
    )


async def test_the_agent_logs_in(login_node: LoginNode, store: Store, agent: Path, key: Path) -> None:
    add(agent, key)
    gateway = gateway_with(agent, login_node, store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        assert gateway.broker.prompt is None


async def test_an_agent_without_keys_is_told_and_given_one(
    login_node: LoginNode, store: Store, agent: Path, key: Path
) -> None:
    gateway = gateway_with(agent, login_node, store)
    async with gateway.running():
        status = await reached(gateway, TunnelState.REFUSED)
        assert status.detail.startswith("the ssh agent holds no key: `ssh-add`")
        add(agent, key)
        gateway.tunnel.connect_now()
        await reached(gateway, TunnelState.UP)


async def test_a_socket_without_an_agent_is_told(
    login_node: LoginNode, store: Store, tmp_path: Path, key: Path
) -> None:
    gateway = gateway_with(tmp_path / "nobody", login_node, store)
    async with gateway.running():
        status = await reached(gateway, TunnelState.REFUSED)
    assert "no ssh agent answers" in status.detail and "make up" in status.detail


async def test_an_agent_whose_keys_are_refused_is_not_blamed(
    login_node: LoginNode, store: Store, agent: Path, key: Path
) -> None:
    add(agent, key)
    login_node.accepted_key = login_node.host_key
    gateway = gateway_with(agent, login_node, store)
    async with gateway.running():
        status = await reached(gateway, TunnelState.REFUSED)
    assert "agent" not in status.detail and "Permission denied" in status.detail
