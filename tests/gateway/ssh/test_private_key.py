"""A key with a passphrase and no agent: asked for once, wrong ones said, kept in memory only."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from .conftest import LoginNode, make_settings, reached, until

SECRET = "correct horse battery staple"


@pytest.fixture
def locked(login_node: LoginNode, tmp_path: Path) -> Path:
    """The accepted key, encrypted, outside ~/.ssh; nothing else logs in."""
    (login_node.ssh_dir / "id_ed25519").unlink()
    path = tmp_path / "my_key"
    login_node.user_key.write_private_key(str(path), passphrase=SECRET, rounds=64)
    return path


def gateway_with(key: Path, login_node: LoginNode, store: Store) -> Gateway:
    settings = make_settings(login_node)
    return Gateway(settings.model_copy(update={"ssh": settings.ssh.model_copy(update={"key_file": key})}), store)


async def answer(gateway: Gateway, text: str) -> None:
    await until(lambda: gateway.broker.prompt is not None)
    prompt = gateway.broker.prompt
    assert prompt is not None
    gateway.broker.answer(prompt.id, [text])
    await until(lambda: gateway.broker.prompt is not prompt)


async def test_it_is_asked_for_once_and_a_reconnect_asks_nothing(
    locked: Path, login_node: LoginNode, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = gateway_with(locked, login_node, store)
    async with gateway.running():
        status = await reached(gateway, TunnelState.NEEDS_HUMAN)
        assert status.prompt is not None
        assert (status.prompt.questions, status.prompt.echo) == (("Passphrase for the key my_key: ",), (False,))
        assert login_node.accepted == 0
        await answer(gateway, "wrong")
        await until(lambda: gateway.broker.prompt is not None)
        assert NOT_ACCEPTED in (gateway.broker.prompt.title if gateway.broker.prompt else "")
        await answer(gateway, SECRET)
        await reached(gateway, TunnelState.UP)
        login_node.cut()
        await until(lambda: gateway.tunnel.status().reconnects == 1, 3)
        assert gateway.tunnel.status().prompt is None
    assert SECRET not in caplog.text


async def test_three_wrong_ones_end_it_until_somebody_asks(locked: Path, login_node: LoginNode, store: Store) -> None:
    gateway = gateway_with(locked, login_node, store)
    async with gateway.running():
        for _ in range(3):
            await answer(gateway, "wrong")
        status = await reached(gateway, TunnelState.REFUSED)
        assert "3 wrong passphrases for my_key" in status.detail
        assert (gateway.broker.prompt, login_node.accepted) == (None, 0)
        gateway.tunnel.connect_now()
        await answer(gateway, SECRET)
        await reached(gateway, TunnelState.UP)


async def test_a_key_without_passphrase_asks_nothing(login_node: LoginNode, store: Store, tmp_path: Path) -> None:
    (login_node.ssh_dir / "id_ed25519").rename(tmp_path / "open_key")
    gateway = gateway_with(tmp_path / "open_key", login_node, store)
    async with gateway.running():
        assert (await reached(gateway, TunnelState.UP)).prompt is None


async def test_a_file_that_is_no_key_is_said(login_node: LoginNode, store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no key\n")
    gateway = gateway_with(tmp_path / "notes", login_node, store)
    async with gateway.running():
        status = await reached(gateway, TunnelState.REFUSED)
    assert "notes: is no private key" in status.detail
