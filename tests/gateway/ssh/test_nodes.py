"""Forwards that end on a compute node (`via: node`), through the login node and without prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh import nodes

from tests.gateway.login_node import LoginNode, PromptScript
from tests.gateway.running import REQUEST, connected, echo, post, serve_behind, talk, tcp_server, wait_until
from tests.gateway.slots.test_forward import parse_refusal

NODE = "node7"


@pytest.fixture
async def compute(login_node: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LoginNode]:
    """Run a compute node that accepts the same key; only the login node knows its host key."""
    node = LoginNode(tmp_path / "compute")
    await node.start()
    node.accepted_key = login_node.user_key
    (login_node.ssh_dir / "config").write_text(f"Host {NODE}\n  HostName 127.0.0.1\n  Port {node.port}\n")
    # the login node of the tests has no /etc
    monkeypatch.setattr(nodes, "KNOWN_HOSTS_FILES", ("etc_ssh_known_hosts",))
    publish_host_key(login_node, node, node.host_key)
    yield node
    await node.stop()


@pytest.fixture
def ssh_changes() -> dict[str, Any]:
    return {"via_node": True}


def publish_host_key(login_node: LoginNode, node: LoginNode, key: asyncssh.SSHKey) -> None:
    """Write the login node's known_hosts."""
    public = key.export_public_key().decode().strip()
    (login_node.home / "etc_ssh_known_hosts").write_text(f"[127.0.0.1]:{node.port} {public}\n")


@pytest.fixture
async def node_slot(compute: LoginNode, gateway: Gateway, store: Store) -> AsyncIterator[int]:
    """Yield the port of slot 0, whose target is an echo server on the compute node."""
    async with tcp_server(echo) as port:
        serve_behind(store, 0, port, node=NODE)
        yield gateway.forwarder.ports[0]


async def refused(slot: int) -> dict[str, Any]:
    """Return the error body of a request to the slot."""
    return parse_refusal(await asyncio.wait_for(talk(slot, REQUEST), 20))[1]


async def test_node_connection_is_kept_and_reopened(compute: LoginNode, login_node: LoginNode, node_slot: int) -> None:
    for _ in range(3):
        assert await talk(node_slot, b"hello") == b"hello"
    assert (login_node.accepted, compute.accepted, compute.channels) == (1, 1, 3)
    compute.cut()
    assert await talk(node_slot, b"again") == b"again"
    assert (login_node.accepted, compute.accepted) == (1, 2)


async def test_node_socket_target_is_reached_with_via_login(
    compute: LoginNode, login_node: LoginNode, store: Store, tmp_path: Path
) -> None:
    """A job that was launched under `via: node` is still served after the site file says `via: login`."""
    path = str(tmp_path / "vllm.sock")
    server = await asyncio.start_unix_server(echo, path)
    async with connected(login_node, store) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, None, node=NODE, socket=path)
        serve_behind(store, 1, port, node="127.0.0.1")
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert (compute.sockets, compute.accepted, login_node.channels) == ([path], 1, 1)
        # a job that listens on the network is reached from the login node
        assert await talk(gateway.forwarder.ports[1], b"hello") == b"hello"
        assert (compute.accepted, compute.channels, login_node.channels) == (1, 1, 2)
    server.close()


@pytest.mark.parametrize("fast_path", [True, False])
async def test_node_loopback_target_is_reached_on_node(
    compute: LoginNode, login_node: LoginNode, store: Store, fast_path: bool
) -> None:
    async with connected(login_node, store, ssh={"fast_path": fast_path}) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, port, node=NODE, loopback=True)
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert (compute.accepted, compute.channels) == (1, 1)


async def test_node_denial_is_reported_and_retried_after_a_pause(
    compute: LoginNode, gateway: Gateway, node_slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute.denial = "Welcome to node7\nAccess denied by pam_slurm_adopt: you have no active jobs on this node\n"
    for _ in range(3):
        body = await refused(node_slot)
        assert body["kind"] == "node_refused"
        assert "Access denied by pam_slurm_adopt: you have no active jobs" in body["detail"]
        assert "Welcome" not in body["detail"]
    # not tried again for every request
    assert compute.accepted == 1
    status = gateway.tunnel.status()
    assert status.state is TunnelState.UP and "no active jobs" in status.nodes[NODE]
    compute.denial = ""
    monkeypatch.setattr(nodes, "RETRY_REFUSED_AFTER_S", 0)
    assert await talk(node_slot, b"hello") == b"hello"
    assert gateway.tunnel.status().nodes == {NODE: ""}


async def test_node_unreachable_keeps_tunnel_up(compute: LoginNode, gateway: Gateway, node_slot: int) -> None:
    await compute.stop()
    body = await refused(node_slot)
    assert "cannot log in to node7" in body["detail"]
    assert (gateway.tunnel.status().state, gateway.tunnel.status().reconnects) == (TunnelState.UP, 0)
    await compute.start()


async def test_node_host_key_in_users_known_hosts_on_login_node_counts(
    compute: LoginNode, login_node: LoginNode, node_slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "KNOWN_HOSTS_FILES", ("not_there", ".ssh/known_hosts"))
    (login_node.home / ".ssh").mkdir()
    (login_node.home / "etc_ssh_known_hosts").rename(login_node.home / ".ssh/known_hosts")
    assert await talk(node_slot, b"hello") == b"hello"


async def test_node_unknown_host_key_can_be_trusted(
    compute: LoginNode, login_node: LoginNode, gateway: Gateway, node_slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (login_node.home / "etc_ssh_known_hosts").unlink()
    monkeypatch.setattr(nodes, "RETRY_REFUSED_AFTER_S", 0)
    body = await refused(node_slot)
    assert body["kind"] == "node_refused" and "bouchet tunnel --trust" in body["detail"]
    shown = gateway.tunnel.status().host_key
    assert shown is not None and shown.fingerprint == compute.host_key.get_fingerprint()
    assert (await post(gateway, "/v1/trust", fingerprint=shown.fingerprint)).status_code == 202
    assert await talk(node_slot, b"hello") == b"hello"
    assert gateway.tunnel.status().host_key is None
    assert (login_node.accepted, compute.logins) == (1, ["researcher"])


async def test_node_changed_host_key_is_refused(
    compute: LoginNode, login_node: LoginNode, gateway: Gateway, node_slot: int
) -> None:
    publish_host_key(login_node, compute, asyncssh.generate_private_key("ssh-ed25519"))
    body = await refused(node_slot)
    assert body["kind"] == "node_refused" and "HAS CHANGED" in body["detail"]
    assert gateway.tunnel.status().state is TunnelState.UP
    assert compute.logins == []


async def test_node_idle_connection_is_closed(
    compute: LoginNode, login_node: LoginNode, gateway: Gateway, node_slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "IDLE_TIMEOUT_S", 0.2)
    assert await talk(node_slot, b"hello") == b"hello"
    await wait_until(lambda: not compute.connections)
    assert gateway.tunnel.status().nodes == {}
    assert await talk(node_slot, b"again") == b"again"
    assert (login_node.accepted, compute.accepted) == (1, 2)


async def test_node_connection_stays_open_while_a_channel_is_open(
    compute: LoginNode, gateway: Gateway, node_slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "IDLE_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", node_slot)
    writer.write(b"first")
    assert await reader.readexactly(5) == b"first"
    # a short connection beside it begins and ends
    assert await talk(node_slot, b"short") == b"short"
    await asyncio.sleep(0.6)
    writer.write(b"later")
    assert await asyncio.wait_for(reader.readexactly(5), 10) == b"later"
    assert (compute.accepted, compute.channels) == (1, 2)
    writer.close()
    await wait_until(lambda: not compute.connections)
    assert gateway.tunnel.status().nodes == {}


async def test_node_prompt_is_not_answered(compute: LoginNode, gateway: Gateway, node_slot: int) -> None:
    compute.script = PromptScript([("Duo", [("Passcode: ", False)])], lambda answers: True)
    body = await refused(node_slot)
    assert body["kind"] == "node_refused" and "without prompts" in body["detail"]
    assert gateway.tunnel.status().prompt is None
    assert compute.script.answers == []
