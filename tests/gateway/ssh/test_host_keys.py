"""Host keys: unknown ones are refused, shown and accepted by fingerprint; changed ones are never accepted."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway

from tests.gateway.login_node import LoginNode
from tests.gateway.running import connected, make_settings, post, started, wait_for_state, wait_until


@pytest.fixture
async def refusing(login_node: LoginNode, store: Store) -> AsyncIterator[Gateway]:
    """Run a gateway that does not know the host key."""
    (login_node.ssh_dir / "known_hosts").write_text("# comment\nnot a line of known_hosts\n")
    async with started(login_node, store) as gateway:
        await wait_for_state(gateway, TunnelState.REFUSED)
        yield gateway


async def test_host_key_unknown_is_shown_and_no_login_sent(refusing: Gateway, login_node: LoginNode) -> None:
    status = refusing.tunnel.status()
    place, fingerprint = f"[127.0.0.1]:{login_node.port}", login_node.host_key.get_fingerprint()
    assert status.host_key is not None
    assert (status.host_key.place, status.host_key.changed) == (place, False)
    assert status.host_key.fingerprint == fingerprint
    assert all(part in status.detail for part in (place, fingerprint, "bouchet tunnel --trust"))
    assert login_node.logins == []


async def test_host_key_added_to_known_hosts_connects(refusing: Gateway, login_node: LoginNode) -> None:
    login_node.trust(login_node.host_key)
    refusing.tunnel.connect_now()
    await wait_for_state(refusing, TunnelState.UP)


async def test_trust_connects_at_once_and_is_kept(refusing: Gateway, login_node: LoginNode, store: Store) -> None:
    assert (await post(refusing, "/v1/trust", fingerprint=login_node.host_key.get_fingerprint())).status_code == 202
    assert (await wait_for_state(refusing, TunnelState.UP)).host_key is None
    accepted = make_settings(login_node).ssh.trusted_hosts
    assert stat.S_IMODE(accepted.stat().st_mode) == 0o600
    async with connected(login_node, store):
        pass


async def test_trust_other_fingerprint_is_refused(refusing: Gateway, login_node: LoginNode) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
    answer = await post(refusing, "/v1/trust", fingerprint=other)
    assert (answer.status_code, answer.json()["kind"]) == (409, "host_key_not_trusted")
    assert login_node.host_key.get_fingerprint() in answer.json()["detail"]
    assert refusing.tunnel.status().state is TunnelState.REFUSED
    assert not make_settings(login_node).ssh.trusted_hosts.exists()


async def test_trust_unwritable_folder_is_refused(refusing: Gateway, login_node: LoginNode) -> None:
    make_settings(login_node).ssh.data_dir.write_text("a file where the folder should be")
    answer = await post(refusing, "/v1/trust", fingerprint=login_node.host_key.get_fingerprint())
    assert (answer.status_code, answer.json()["kind"]) == (409, "host_key_not_trusted")


async def test_trust_without_refused_key_is_refused(gateway: Gateway) -> None:
    answer = await post(gateway, "/v1/trust", fingerprint="SHA256:x")
    assert (answer.status_code, answer.json()["kind"]) == (409, "host_key_not_trusted")


async def test_host_key_changed_cannot_be_trusted(login_node: LoginNode, store: Store) -> None:
    login_node.trust(asyncssh.generate_private_key("ssh-ed25519"))
    async with started(login_node, store) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
        assert status.host_key is not None and status.host_key.changed
        assert "HAS CHANGED" in status.detail and status.host_key.fingerprint in status.detail
        refused = await post(gateway, "/v1/run", argv=["squeue"])
        assert (refused.status_code, refused.json()["kind"]) == (503, "human_needed")
        answer = await post(gateway, "/v1/trust", fingerprint=status.host_key.fingerprint)
        assert (answer.status_code, answer.json()["kind"]) == (409, "host_key_not_trusted")
    assert login_node.logins == []


async def test_host_key_of_other_type_is_refused(login_node: LoginNode, store: Store) -> None:
    login_node.trust(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    async with started(login_node, store) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert "host key" in status.detail
    assert login_node.logins == []


async def test_forget_makes_changed_accepted_key_unknown(refusing: Gateway, login_node: LoginNode) -> None:
    await post(refusing, "/v1/trust", fingerprint=login_node.host_key.get_fingerprint())
    await wait_for_state(refusing, TunnelState.UP)
    await login_node.stop()
    login_node.host_key = asyncssh.generate_private_key("ssh-ed25519")
    await login_node.start()
    place = f"[127.0.0.1]:{login_node.port}"
    status = await wait_for_state(refusing, TunnelState.REFUSED)
    assert status.host_key is not None and status.host_key.changed
    assert f"--forget '{place}'" in status.detail
    assert (await post(refusing, "/v1/forget", place="other.example.org")).status_code == 409
    assert (await post(refusing, "/v1/forget", place=place)).status_code == 202

    def is_offered() -> bool:
        key = refusing.tunnel.status().host_key
        return key is not None and not key.changed and key.fingerprint == login_node.host_key.get_fingerprint()

    await wait_until(is_offered)
