"""Jump hosts (`ProxyJump`): gone through, named when they ask, refuse or are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.settings import SshSettings
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from .conftest import LoginNode, Script, make_settings, reached, until
from .test_tunnel import answer, prompted, started

QUESTION = [("Passcode or option (1-1): ", False)]


async def test_jump_hosts_are_gone_through(login_node: LoginNode, store: Store) -> None:
    """The jump host and the cluster are one server here, reached twice: once directly, once through itself."""
    (login_node.ssh_dir / "config").write_text(
        f"Host cluster jump\n  HostName 127.0.0.1\n  Port {login_node.port}\n"
        "Host cluster\n  User inner\n  ProxyJump jump\nHost jump\n  User outer\n"
    )
    settings = make_settings(login_node)
    ssh = settings.ssh.model_copy(update={"hosts": ("cluster",), "user": None, "port": None})
    async with started(login_node, store, ssh=ssh) as gateway:
        await reached(gateway, TunnelState.UP)
        assert (login_node.logins, login_node.channels) == (["outer", "inner"], 1)
        login_node.cut()
        await until(lambda: gateway.tunnel.status().reconnects == 1, 3)
    await until(lambda: not login_node.connections, 2)


def two_hops(login_node: LoginNode, first: LoginNode, ssh_dir_of: LoginNode) -> SshSettings:
    """`cluster` behind the jump host `gate`, each a server of its own."""
    (ssh_dir_of.ssh_dir / "config").write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {login_node.port}\n  ProxyJump gate\n"
        f"Host gate\n  HostName 127.0.0.1\n  Port {first.port}\n"
    )
    known = [(node.ssh_dir / "known_hosts").read_text() for node in (login_node, first)]
    (ssh_dir_of.ssh_dir / "known_hosts").write_text("".join(known))
    return make_settings(login_node).ssh.model_copy(update={"hosts": ("cluster",), "port": None})


@pytest.fixture
async def gate(login_node: LoginNode, tmp_path: Path) -> AsyncIterator[LoginNode]:
    """A jump host that takes the same key."""
    (tmp_path / "gate").mkdir()
    node = LoginNode(tmp_path / "gate")
    await node.start()
    node.accepted_key = login_node.user_key
    yield node
    await node.stop()


async def test_each_host_that_asks_is_named(gate: LoginNode, login_node: LoginNode, store: Store) -> None:
    gate.script = Script([("", QUESTION)], lambda answers: answers == ["111111"])
    login_node.script = Script([("", QUESTION)], lambda answers: answers == ["123456"])
    async with started(login_node, store, ssh=two_hops(login_node, gate, login_node)) as gateway:
        first = await prompted(gateway)
        assert first.prompt is not None and first.prompt.host == "gate (the jump host to cluster)"
        assert first.detail == "gate (the jump host to cluster) is waiting for an answer: `bouchet tunnel`"
        assert await answer(gateway, first, "111111") == 202
        await until(lambda: gateway.tunnel.status().prompt not in (None, first.prompt))
        second = gateway.tunnel.status()
        assert second.prompt is not None and second.prompt.host == "cluster"
        # the jump host's answer was accepted; the cluster has heard none yet
        assert NOT_ACCEPTED not in second.prompt.title
        assert await answer(gateway, second, "123456") == 202
        await reached(gateway, TunnelState.UP)
    assert (gate.script.seen, login_node.script.seen) == ([["111111"]], [["123456"]])


async def test_a_jump_host_that_refuses_or_is_gone_is_named(
    gate: LoginNode, login_node: LoginNode, store: Store
) -> None:
    ssh = two_hops(login_node, gate, login_node)
    gate.accepted_key = gate.host_key
    async with started(login_node, store, ssh=ssh) as gateway:
        status = await reached(gateway, TunnelState.REFUSED)
        assert "cannot log in to gate (the jump host to cluster): Permission denied" in status.detail
    await gate.stop()
    async with started(login_node, store, ssh=ssh) as gateway:
        status = await reached(gateway, TunnelState.DOWN)
        assert "cannot log in to gate (the jump host to cluster)" in status.detail
    await gate.start()
    gate.accepted_key = login_node.accepted_key
    await login_node.stop()
    async with started(login_node, store, ssh=ssh) as gateway:
        status = await reached(gateway, TunnelState.DOWN)
        assert "cannot log in to cluster:" in status.detail
    await login_node.start()
