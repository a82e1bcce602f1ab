"""Logins: what the ssh config sets, jump hosts, and the limits of each stage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from tests.gateway.login_node import LoginNode, PromptScript
from tests.gateway.running import (
    answer_prompt,
    api_client,
    connected,
    started,
    wait_for_prompt,
    wait_for_reconnect,
    wait_for_state,
    wait_until,
)

QUESTION = [("Passcode or option (1-1): ", False)]
JUMP_HOST = "gate (the jump host to cluster)"


@pytest.fixture
async def gate(login_node: LoginNode, tmp_path: Path) -> AsyncIterator[LoginNode]:
    """Run a jump host that accepts the same key."""
    node = LoginNode(tmp_path / "gate")
    await node.start()
    node.accepted_key = login_node.user_key
    yield node
    await node.stop()


def two_hops(login_node: LoginNode, gate: LoginNode) -> dict[str, Any]:
    """Write an ssh config with `cluster` behind the jump host `gate`; return the settings for it."""
    (login_node.ssh_dir / "config").write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {login_node.port}\n  ProxyJump gate\n"
        f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n"
    )
    known = [(node.ssh_dir / "known_hosts").read_text() for node in (login_node, gate)]
    (login_node.ssh_dir / "known_hosts").write_text("".join(known))
    return {"hosts": ("cluster",), "port": None}


async def test_connect_uses_ssh_config(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "id_ed25519").rename(login_node.ssh_dir / "work_key")
    (login_node.ssh_dir / "known_hosts").rename(login_node.ssh_dir / "hosts_of_work")
    (login_node.ssh_dir / "config").write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {login_node.port}\n  User configured\n"
        "  IdentityFile /home/elsewhere/.ssh/work_key\n  UserKnownHostsFile ~/.ssh/hosts_of_work\n"
        "  ConnectTimeout 1\n  RequestTTY force\n  RemoteCommand tmux\n  ServerAliveInterval 60\n"
    )
    login_node.program("squeue", "#!/bin/sh\necho fine\n")
    ssh = {"hosts": ("cluster",), "user": "not-used", "port": None}
    async with connected(login_node, store, ssh=ssh) as gateway, api_client(gateway) as client:
        assert (await client.post("/v1/run", json={"argv": ["squeue"]})).json()["stdout"] == "fine\n"
        assert (await client.put("/v1/files", params={"path": "~/bouchet/jobs/x"}, content=b"x")).status_code == 204
    assert login_node.logins == ["configured"]


async def test_connect_invalid_ssh_config_is_refused(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "config").write_text("Host *\n  Port many\n")
    async with started(login_node, store) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert "line 2" in status.detail


async def test_connect_slow_login_within_limit_succeeds(login_node: LoginNode, store: Store) -> None:
    login_node.login_delay_s = 0.4
    async with connected(login_node, store, ssh={"handshake_timeout_s": 0.2, "login_timeout_s": 5}):
        assert login_node.accepted == 1


async def test_connect_login_over_limit_is_retried(login_node: LoginNode, store: Store) -> None:
    login_node.login_delay_s = 60
    async with started(login_node, store, ssh={"login_timeout_s": 0.3}) as gateway:
        status = await wait_for_state(gateway, TunnelState.DOWN)
    assert "did not answer within" in status.detail and "login" in status.detail


async def test_connect_jump_host_is_used_and_reconnected(login_node: LoginNode, store: Store) -> None:
    """One server is both hosts: connected directly as the jump host, and through itself as the cluster."""
    (login_node.ssh_dir / "config").write_text(
        f"Host cluster jump\n  HostName 127.0.0.1\n  Port {login_node.port}\n"
        "Host cluster\n  User inner\n  ProxyJump jump\nHost jump\n  User outer\n"
    )
    async with connected(login_node, store, ssh={"hosts": ("cluster",), "user": None, "port": None}) as gateway:
        assert (login_node.logins, login_node.channels) == (["outer", "inner"], 1)
        login_node.cut()
        await wait_for_reconnect(gateway)
    await wait_until(lambda: not login_node.connections)


async def test_connect_prompts_name_their_host(gate: LoginNode, login_node: LoginNode, store: Store) -> None:
    gate.script = PromptScript([("", QUESTION)], lambda answers: answers == ["111111"])
    login_node.script = PromptScript([("", QUESTION)], lambda answers: answers == ["123456"])
    async with started(login_node, store, ssh=two_hops(login_node, gate)) as gateway:
        first = await wait_for_prompt(gateway)
        assert first.prompt is not None and first.prompt.host == JUMP_HOST
        assert first.detail.startswith(JUMP_HOST)
        assert await answer_prompt(gateway, first, "111111") == 202
        second = await wait_for_prompt(gateway, after=first)
        assert second.prompt is not None and second.prompt.host == "cluster"
        # the jump host's answer was accepted; the cluster has had none yet
        assert NOT_ACCEPTED not in second.prompt.title
        assert await answer_prompt(gateway, second, "123456") == 202
        await wait_for_state(gateway, TunnelState.UP)
    assert (gate.script.answers, login_node.script.answers) == ([["111111"]], [["123456"]])


async def test_connect_jump_host_refusal_names_it(gate: LoginNode, login_node: LoginNode, store: Store) -> None:
    gate.accepted_key = gate.host_key
    async with started(login_node, store, ssh=two_hops(login_node, gate)) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert f"cannot log in to {JUMP_HOST}: Permission denied" in status.detail


@pytest.mark.parametrize("gone", ["gate", "cluster"])
async def test_connect_unreachable_host_of_two_is_named(
    gate: LoginNode, login_node: LoginNode, store: Store, gone: str
) -> None:
    ssh = two_hops(login_node, gate)
    node, name = (gate, JUMP_HOST) if gone == "gate" else (login_node, "cluster")
    await node.stop()
    async with started(login_node, store, ssh=ssh) as gateway:
        status = await wait_for_state(gateway, TunnelState.DOWN)
        assert f"cannot log in to {name}:" in status.detail
    await node.start()
