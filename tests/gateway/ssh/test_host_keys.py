"""`bouchet tunnel --trust`: an unknown host key is shown, accepted by fingerprint, and kept; a changed one never."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator

import asyncssh
import httpx
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, door_of, make_settings, reached, until


@pytest.fixture
async def unknown(login_node: LoginNode, store: Store) -> AsyncIterator[Gateway]:
    """A gateway that meets a host key nobody has seen."""
    (login_node.ssh_dir / "known_hosts").unlink()
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await reached(gateway, TunnelState.REFUSED)
        yield gateway


async def shown(gateway: Gateway) -> TunnelStatus:
    async with door_of(gateway) as door:
        return TunnelStatus.model_validate_json((await door.get("/v1/status")).content)


async def post(gateway: Gateway, path: str, **body: str) -> httpx.Response:
    async with door_of(gateway) as door:
        return await door.post(path, json=body)


async def test_the_fingerprint_is_shown_and_nobody_logs_in(unknown: Gateway, login_node: LoginNode) -> None:
    key = (await shown(unknown)).host_key
    assert key is not None
    assert (key.place, key.changed) == (f"[127.0.0.1]:{login_node.port}", False)
    assert key.fingerprint == login_node.host_key.get_fingerprint()
    assert "bouchet tunnel --trust" in (await shown(unknown)).detail
    assert login_node.logins == []


async def test_trusting_it_connects_at_once_and_is_kept(unknown: Gateway, login_node: LoginNode, store: Store) -> None:
    assert (await post(unknown, "/v1/trust", fingerprint=login_node.host_key.get_fingerprint())).status_code == 202
    assert (await reached(unknown, TunnelState.UP)).host_key is None
    kept = make_settings(login_node).ssh.trusted_hosts
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = Gateway(make_settings(login_node), store)
    async with again.running():
        await reached(again, TunnelState.UP)


async def test_another_fingerprint_is_refused_in_words(unknown: Gateway, login_node: LoginNode) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
    answer = await post(unknown, "/v1/trust", fingerprint=other)
    assert (answer.status_code, answer.json()["kind"]) == (409, "host_key_not_trusted")
    assert login_node.host_key.get_fingerprint() in answer.json()["detail"]
    assert (await shown(unknown)).state is TunnelState.REFUSED
    assert not make_settings(login_node).ssh.trusted_hosts.exists()


async def test_a_changed_key_cannot_be_trusted(login_node: LoginNode, store: Store) -> None:
    login_node.trust(asyncssh.generate_private_key("ssh-ed25519"))
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        status = await reached(gateway, TunnelState.REFUSED)
        assert status.host_key is not None and status.host_key.changed
        answer = await post(gateway, "/v1/trust", fingerprint=status.host_key.fingerprint)
        assert answer.status_code == 409 and "CHANGED" in answer.json()["detail"]
    assert login_node.logins == []


async def test_a_trusted_key_that_changes_is_refused_until_it_is_forgotten(
    unknown: Gateway, login_node: LoginNode
) -> None:
    await post(unknown, "/v1/trust", fingerprint=login_node.host_key.get_fingerprint())
    await reached(unknown, TunnelState.UP)
    await login_node.stop()
    login_node.host_key = asyncssh.generate_private_key("ssh-ed25519")
    await login_node.start()
    place = f"[127.0.0.1]:{login_node.port}"
    status = await reached(unknown, TunnelState.REFUSED)
    assert "HAS CHANGED" in status.detail and f"--forget '{place}'" in status.detail
    assert (await post(unknown, "/v1/forget", place="other.example.org")).status_code == 409
    assert (await post(unknown, "/v1/forget", place=place)).status_code == 202
    await until_offered(unknown, login_node.host_key.get_fingerprint())


async def until_offered(gateway: Gateway, fingerprint: str) -> None:
    """After `forget` the new key is merely unknown."""

    def offered() -> bool:
        key = gateway.tunnel.status().host_key
        return key is not None and not key.changed and key.fingerprint == fingerprint

    await until(offered)


async def test_nothing_to_trust_is_said(login_node: LoginNode, store: Store) -> None:
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        answer = await post(gateway, "/v1/trust", fingerprint="SHA256:x")
    assert (answer.status_code, answer.json()["kind"]) == (409, "host_key_not_trusted")
