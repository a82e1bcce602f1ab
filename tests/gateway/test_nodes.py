"""`via: node`: a forward that ends on the compute node, through the login node, without a question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from bouchet_core.models import TunnelState
from bouchet_core.store import Store
from bouchet_gateway import nodes
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, Script, make_settings, reached, serve_behind, tcp_server
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
    monkeypatch.setattr(nodes, "KNOWN_THERE", ("etc_ssh_known_hosts",))
    tell(login_node, node, node.host_key)
    yield node
    await node.stop()


def tell(login_node: LoginNode, node: LoginNode, key: asyncssh.SSHKey) -> None:
    public = key.export_public_key().decode().strip()
    (login_node.home / "etc_ssh_known_hosts").write_text(f"[127.0.0.1]:{node.port} {public}\n")


def gateway_via_node(login_node: LoginNode, store: Store) -> Gateway:
    settings = make_settings(login_node)
    return Gateway(replace(settings, ssh=replace(settings.ssh, via_node=True)), store)


async def test_the_way_leads_over_the_node_and_is_kept(compute: LoginNode, login_node: LoginNode, store: Store) -> None:
    gateway = gateway_via_node(login_node, store)
    async with gateway.running(), tcp_server(echo) as port:
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, port, node=NODE)
        for _ in range(3):
            assert await talk(gateway.forwards.ports[0], b"hello") == b"hello"
        assert (login_node.accepted, compute.accepted, compute.channels) == (1, 1, 3)
        compute.cut()
        assert await talk(gateway.forwards.ports[0], b"again") == b"again"
        assert (login_node.accepted, compute.accepted) == (1, 2)


async def test_a_node_with_another_host_key_is_refused_in_words(
    compute: LoginNode, login_node: LoginNode, store: Store
) -> None:
    tell(login_node, compute, asyncssh.generate_private_key("ssh-ed25519"))
    gateway = gateway_via_node(login_node, store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, 1, node=NODE)
        _, body = words_of(await talk(gateway.forwards.ports[0], REQUEST))
        assert "the host key of node7 is not the one" in str(body["detail"])
        assert gateway.tunnel.status().state is TunnelState.UP
    assert compute.logins == []


async def test_a_node_that_asks_is_never_answered(compute: LoginNode, login_node: LoginNode, store: Store) -> None:
    compute.script = Script([("Duo", [("Passcode: ", False)])], lambda answers: True)
    gateway = gateway_via_node(login_node, store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        serve_behind(store, 0, 1, node=NODE)
        _, body = words_of(await asyncio.wait_for(talk(gateway.forwards.ports[0], REQUEST), 10))
        assert "via: login" in str(body["detail"])
        assert gateway.desk.prompt is None
    assert compute.script.seen == []
