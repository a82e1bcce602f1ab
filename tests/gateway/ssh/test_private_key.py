"""The user's key: in a file with a passphrase, in a file without, or in an ssh agent."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from tests.gateway.login_node import LoginNode
from tests.gateway.running import (
    answer_prompt,
    connected,
    started,
    wait_for_prompt,
    wait_for_reconnect,
    wait_for_state,
)

PASSPHRASE = "correct horse battery staple"


def encrypt_key(node: LoginNode, path: Path, **options: Any) -> Path:
    """Move the accepted key to an encrypted file outside ~/.ssh, so that no other key logs in."""
    (node.ssh_dir / "id_ed25519").unlink()
    node.user_key.write_private_key(str(path), passphrase=PASSPHRASE, **options)
    return path


@pytest.mark.slow
async def test_key_file_passphrase_is_asked_once(
    login_node: LoginNode, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # bcrypt warns of fewer rounds
    locked = encrypt_key(login_node, tmp_path / "my_key", rounds=50)
    async with started(login_node, store, ssh={"key_file": locked}) as gateway:
        status = await wait_for_state(gateway, TunnelState.NEEDS_HUMAN)
        assert status.prompt is not None
        assert (status.prompt.questions, status.prompt.echo) == (("Passphrase for the key my_key: ",), (False,))
        assert login_node.accepted == 0
        assert await answer_prompt(gateway, status, "wrong") == 202
        second = await wait_for_prompt(gateway, after=status)
        assert NOT_ACCEPTED in (second.prompt.title if second.prompt else "")
        assert await answer_prompt(gateway, second, PASSPHRASE) == 202
        await wait_for_state(gateway, TunnelState.UP)
        login_node.cut()
        assert (await wait_for_reconnect(gateway)).prompt is None
    assert PASSPHRASE not in caplog.text


async def test_key_file_three_wrong_passphrases_wait_for_connect(
    login_node: LoginNode, store: Store, tmp_path: Path
) -> None:
    locked = encrypt_key(login_node, tmp_path / "my_key", format_name="pkcs8-pem")
    async with started(login_node, store, ssh={"key_file": locked}) as gateway:
        status = None
        for _ in range(3):
            status = await wait_for_prompt(gateway, after=status)
            assert await answer_prompt(gateway, status, "wrong") == 202
        refused = await wait_for_state(gateway, TunnelState.REFUSED)
        assert "3 wrong passphrases for my_key" in refused.detail
        assert (refused.prompt, login_node.accepted) == (None, 0)
        gateway.tunnel.connect_now()
        assert await answer_prompt(gateway, await wait_for_prompt(gateway), PASSPHRASE) == 202
        await wait_for_state(gateway, TunnelState.UP)


async def test_key_file_without_passphrase_prompts_for_nothing(
    login_node: LoginNode, store: Store, tmp_path: Path
) -> None:
    (login_node.ssh_dir / "id_ed25519").rename(tmp_path / "open_key")
    async with connected(login_node, store, ssh={"key_file": tmp_path / "open_key"}) as gateway:
        assert gateway.tunnel.status().prompt is None


@pytest.mark.parametrize("text", ["no key\n", None])
async def test_key_file_unusable_is_refused(
    login_node: LoginNode, store: Store, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "notes").write_text(text)
    async with started(login_node, store, ssh={"key_file": tmp_path / "notes"}) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert status.detail.startswith("notes: ")


@pytest.fixture
def key(login_node: LoginNode, tmp_path: Path) -> Path:
    """Return the accepted key, where the gateway does not read it."""
    path = tmp_path / "elsewhere"
    (login_node.ssh_dir / "id_ed25519").rename(path)
    path.chmod(0o600)
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """Run an ssh-agent without a key."""
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
        yield socket
        process.terminate()


def add_key(agent: Path, key: Path) -> None:
    environ = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True, stdin=subprocess.DEVNULL)


async def test_agent_with_key_logs_in(login_node: LoginNode, store: Store, agent: Path, key: Path) -> None:
    add_key(agent, key)
    async with connected(login_node, store, ssh={"agent_socket": str(agent)}) as gateway:
        assert gateway.tunnel.status().prompt is None


async def test_agent_without_key_is_reported_until_one_is_added(
    login_node: LoginNode, store: Store, agent: Path, key: Path
) -> None:
    async with started(login_node, store, ssh={"agent_socket": str(agent)}) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
        assert "the ssh agent has no keys" in status.detail
        add_key(agent, key)
        gateway.tunnel.connect_now()
        await wait_for_state(gateway, TunnelState.UP)


async def test_agent_socket_without_agent_is_reported(
    login_node: LoginNode, store: Store, tmp_path: Path, key: Path
) -> None:
    async with started(login_node, store, ssh={"agent_socket": str(tmp_path / "none")}) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert "the ssh agent does not answer" in status.detail


async def test_agent_with_refused_key_is_not_reported(
    login_node: LoginNode, store: Store, agent: Path, key: Path
) -> None:
    add_key(agent, key)
    login_node.accepted_key = login_node.host_key
    async with started(login_node, store, ssh={"agent_socket": str(agent)}) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert "agent" not in status.detail and "Permission denied" in status.detail
