"""`via: node`: a forward that ends on the compute node, through the login node, without a question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh import nodes

from .conftest import LoginNode, Script, door_of, make_settings, reached, serve_behind, tcp_server, until
from .test_forward import REQUEST, echo, talk, words_of

NODE = "node7"


@pytest.fixture
async def compute(login_node: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LoginNode]:
    """A compute node that takes the same key, its host key known to the login node alone."""
    (tmp_path / "compute").mkdir()
    node = LoginNode(tmp_path / "compute")
    await node.start()
    node.accepted_key = login_node.user_key
    (login_node.ssh_dir / "config").write_text(f"Host {NODE}\n  HostName 127.0.0.1\n  Port {node.port}\n")
    # asyncssh's test server has no /etc of its own
    monkeypatch.setattr(nodes, "KNOWN_HOSTS_FILES", ("etc_ssh_known_hosts",))
    tell(login_node, node, node.host_key)
    yield node
    await node.stop()


def tell(login_node: LoginNode, node: LoginNode, key: asyncssh.SSHKey) -> None:
    public = key.export_public_key().decode().strip()
    (login_node.home / "etc_ssh_known_hosts").write_text(f"[127.0.0.1]:{node.port} {public}\n")


def gateway_via_node(login_node: LoginNode, store: Store) -> Gateway:
    settings = make_settings(login_node)
    return Gateway(settings.model_copy(update={"ssh": settings.ssh.model_copy(update={"via_node": True})}), store)


async def test_the_way_leads_over_the_node_and_is_kept(compute: LoginNode, login_node: LoginNode, store: Store) -> None:
    gateway = gateway_via_node(login_node, store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE)
        for _ in range(3):
            assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert (login_node.accepted, compute.accepted, compute.channels) == (1, 1, 3)
        compute.cut()
        assert await talk(gateway.forwarder.ports[0], b"again") == b"again"
        assert (login_node.accepted, compute.accepted) == (1, 2)


async def test_a_socket_on_the_node_is_reached_whatever_the_site_says(
    compute: LoginNode, login_node: LoginNode, store: Store, tmp_path: Path
) -> None:
    """`via: login` in the site file: a job that was launched under `via: node` is still served."""
    path = str(tmp_path / "vllm.sock")
    server = await asyncio.start_unix_server(echo, path)
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, None, node=NODE, socket=path)
        serve_behind(store, 1, port, node="127.0.0.1")
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert (compute.sockets, compute.accepted, login_node.channels) == ([path], 1, 1)
        # a job that listens for the whole network is reached as ever
        assert await talk(gateway.forwarder.ports[1], b"hello") == b"hello"
        assert (compute.accepted, compute.channels, login_node.channels) == (1, 1, 2)
    server.close()


async def test_a_loopback_port_is_the_nodes_own(compute: LoginNode, login_node: LoginNode, store: Store) -> None:
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE, loopback=True)
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert (compute.accepted, compute.channels) == (1, 1)


async def test_a_node_without_a_job_of_ours_says_so(
    compute: LoginNode, login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute.denial = "Welcome to node7\nAccess denied by pam_slurm_adopt: you have no active jobs on this node\n"
    gateway = gateway_via_node(login_node, store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE)
        for _ in range(3):
            _, body = words_of(await asyncio.wait_for(talk(gateway.forwarder.ports[0], REQUEST), 20))
            assert body["kind"] == "node_refused"
            assert "it says: Access denied by pam_slurm_adopt: you have no active jobs" in str(body["detail"])
            assert "Welcome" not in str(body["detail"])
        # not for every request anew
        assert compute.accepted == 1
        status = gateway.tunnel.status()
        assert status.state is TunnelState.UP and "no active jobs" in status.nodes[NODE]
        compute.denial = ""
        monkeypatch.setattr(nodes, "RETRY_REFUSED_AFTER_S", 0)
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert gateway.tunnel.status().nodes == {NODE: ""}


async def test_a_node_that_is_gone_is_said_and_the_tunnel_stays(
    compute: LoginNode, login_node: LoginNode, store: Store
) -> None:
    await compute.stop()
    gateway = gateway_via_node(login_node, store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, 1, node=NODE)
        _, body = words_of(await asyncio.wait_for(talk(gateway.forwarder.ports[0], REQUEST), 20))
        assert "cannot log in to node7" in str(body["detail"])
        assert (gateway.tunnel.status().state, gateway.tunnel.status().reconnects) == (TunnelState.UP, 0)


async def test_the_persons_known_hosts_on_the_login_node_count(
    compute: LoginNode, login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "KNOWN_HOSTS_FILES", ("not_there", ".ssh/known_hosts"))
    (login_node.home / ".ssh").mkdir()
    (login_node.home / "etc_ssh_known_hosts").rename(login_node.home / ".ssh/known_hosts")
    gateway = gateway_via_node(login_node, store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE)
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"


async def test_a_node_that_nobody_knows_is_trusted_by_its_fingerprint(
    compute: LoginNode, login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (login_node.home / "etc_ssh_known_hosts").unlink()
    monkeypatch.setattr(nodes, "RETRY_REFUSED_AFTER_S", 0)
    gateway = gateway_via_node(login_node, store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE)
        _, body = words_of(await talk(gateway.forwarder.ports[0], REQUEST))
        assert "is not known" in str(body["detail"]) and "bouchet tunnel --trust" in str(body["detail"])
        shown = gateway.tunnel.status().host_key
        assert shown is not None and shown.fingerprint == compute.host_key.get_fingerprint()
        async with door_of(gateway) as door:
            assert (await door.post("/v1/trust", json={"fingerprint": shown.fingerprint})).status_code == 202
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        assert gateway.tunnel.status().host_key is None
        assert (login_node.accepted, compute.logins) == (1, ["researcher"])


async def test_a_node_that_nobody_asks_for_any_more_is_left(
    compute: LoginNode, login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "IDLE_TIMEOUT_S", 0.2)
    gateway = gateway_via_node(login_node, store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE)
        assert await talk(gateway.forwarder.ports[0], b"hello") == b"hello"
        await until(lambda: not compute.connections, 3)
        assert gateway.tunnel.status().nodes == {}
        assert await talk(gateway.forwarder.ports[0], b"again") == b"again"
        assert (login_node.accepted, compute.accepted) == (1, 2)


async def test_a_node_with_another_host_key_is_refused_in_words(
    compute: LoginNode, login_node: LoginNode, store: Store
) -> None:
    tell(login_node, compute, asyncssh.generate_private_key("ssh-ed25519"))
    gateway = gateway_via_node(login_node, store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, 1, node=NODE)
        _, body = words_of(await talk(gateway.forwarder.ports[0], REQUEST))
        assert "THE HOST KEY OF" in str(body["detail"]) and "HAS CHANGED" in str(body["detail"])
        assert gateway.tunnel.status().state is TunnelState.UP
    assert compute.logins == []


async def test_a_node_that_asks_is_never_answered(compute: LoginNode, login_node: LoginNode, store: Store) -> None:
    compute.script = Script([("Duo", [("Passcode: ", False)])], lambda answers: True)
    gateway = gateway_via_node(login_node, store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, 1, node=NODE)
        _, body = words_of(await asyncio.wait_for(talk(gateway.forwarder.ports[0], REQUEST), 20))
        assert "without a question (`via: node`" in str(body["detail"])
        assert gateway.broker.prompt is None
    assert compute.script.seen == []
