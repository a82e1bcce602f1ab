"""Logins at the demo's real sshd: wrong codes, pushes, jump hosts, several login nodes, another network."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bouchet_core.tunnel import LoginPrompt, TunnelState, TunnelStatus
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED, PromptBroker
from bouchet_gateway.ssh.tunnel import Tunnel

from tests.stack.harness import SUBNET, Stack
from tests.stack.ssh.own_tunnel import LOGIN_NODE, PASSCODE, trust_the_host, tunnel_as, until
from tests.stack.ssh.test_tunnel import ASKERS, BACK_S, NOTICED_S, ask, tunnel_state, wait_for_tunnel
from tests.waiting import wait_for


async def question(tunnel: Tunnel, broker: PromptBroker, after: LoginPrompt | None = None) -> LoginPrompt:
    """Wait for a prompt other than the one before."""
    await until(lambda: broker.prompt not in (None, after), tunnel.status)
    assert broker.prompt is not None
    return broker.prompt


async def is_up(tunnel: Tunnel) -> None:
    await until(lambda: tunnel.status().state is TunnelState.UP, tunnel.status)


def thrown_out(stack: Stack) -> None:
    stack.on("demo-login", ["pkill", "-KILL", "-u", "guarded"])


async def test_mfa_wrong_code_prompts_again(stack: Stack, tmp_path: Path) -> None:
    async with tunnel_as(stack, "guarded", tmp_path) as (tunnel, broker):
        await trust_the_host(stack, tunnel)
        first = await question(tunnel, broker)
        assert NOT_ACCEPTED not in first.title
        broker.answer(first.id, ["7654321"])
        second = await question(tunnel, broker, first)
        assert second.title.startswith(NOT_ACCEPTED)
        broker.answer(second.id, [PASSCODE])
        await is_up(tunnel)


async def test_mfa_auto_push_is_sent_once_per_minute(stack: Stack, tmp_path: Path) -> None:
    shown: set[str] = set()

    def on_change(status: TunnelStatus) -> None:
        shown.update([status.prompt.id] if status.prompt else [])

    async with tunnel_as(stack, "guarded", tmp_path, auto="1", on_change=on_change) as (tunnel, broker):
        await trust_the_host(stack, tunnel)
        await is_up(tunnel)
        assert shown == set(), "no prompt was shown"
        await asyncio.to_thread(thrown_out, stack)
        again = await question(tunnel, broker)
        await asyncio.sleep(2)
        assert broker.prompt == again, "no second push within the minute"
        broker.answer(again.id, [PASSCODE])
        await is_up(tunnel)


async def test_mfa_unanswered_prompt_is_not_repeated(stack: Stack, tmp_path: Path) -> None:
    since = int(time.time())
    async with tunnel_as(stack, "guarded", tmp_path, patience_s=5) as (tunnel, broker):
        await trust_the_host(stack, tunnel)
        await question(tunnel, broker)
        await until(lambda: "was not answered" in tunnel.status().detail, tunnel.status)
        log = await asyncio.to_thread(stack.container("demo-login").logs, since=since)
        await asyncio.sleep(3)
        assert (tunnel.status().state, tunnel.status().retry_at) == (TunnelState.NEEDS_HUMAN, None)
        later = await asyncio.to_thread(stack.container("demo-login").logs, since=since)
        assert later.count(b"Postponed keyboard-interactive") == log.count(b"Postponed keyboard-interactive") > 0
        tunnel.connect_now()
        await question(tunnel, broker)


async def test_mfa_prompts_name_their_host(stack: Stack, tmp_path: Path) -> None:
    """Use one server for both roles: the demo's login node is the only one."""
    hosts = f"Host gate cluster\n  HostName {LOGIN_NODE}\n  User guarded\n"
    (tmp_path / "config").write_text(f"{hosts}Host cluster\n  ProxyJump gate\n")
    async with tunnel_as(stack, "guarded", tmp_path, hosts=("cluster",)) as (tunnel, broker):
        await trust_the_host(stack, tunnel)
        first = await question(tunnel, broker)
        assert first.host == "gate (the jump host to cluster)"
        broker.answer(first.id, [PASSCODE])
        second = await question(tunnel, broker, first)
        assert second.host == "cluster" and NOT_ACCEPTED not in second.title
        broker.answer(second.id, [PASSCODE])
        await is_up(tunnel)
        assert broker.prompt is None


async def test_jump_host_unreachable_is_named(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        f"Host cluster\n  HostName {LOGIN_NODE}\n  ProxyJump gate\nHost gate\n  HostName {SUBNET}.99\n"
    )
    async with tunnel_as(stack, "researcher", tmp_path, hosts=("cluster",)) as (tunnel, _):
        await until(lambda: tunnel.status().state is TunnelState.DOWN, tunnel.status)
        assert "gate (the jump host to cluster)" in tunnel.status().detail


async def test_login_nodes_next_one_is_tried(stack: Stack, tmp_path: Path) -> None:
    async with tunnel_as(stack, "researcher", tmp_path, hosts=(f"{SUBNET}.99", LOGIN_NODE)) as (tunnel, _):
        await until(lambda: tunnel.status().host_key is not None, tunnel.status)
        await trust_the_host(stack, tunnel)
        await is_up(tunnel)
        assert tunnel.status().host == LOGIN_NODE


def address(stack: Stack, service: str) -> str:
    networks = stack.container(service).attrs["NetworkSettings"]["Networks"]
    return next((net["IPAddress"] for name, net in networks.items() if name.endswith("_uplink")), "")


def test_network_change_of_addresses_reconnects(stack: Stack) -> None:
    """Switch a VPN off and on; both ends have other addresses afterwards."""
    wait_for_tunnel(stack, up=True, within_s=60)
    before = [address(stack, service) for service in ("gateway", "demo-login")]
    names = stack.container("gateway").attrs["NetworkSettings"]["Networks"]
    uplink = stack.docker.networks.get(next(name for name in names if name.endswith("_uplink")))
    gateway, login = stack.container("gateway"), stack.container("demo-login")
    with ThreadPoolExecutor(ASKERS) as clients:
        uplink.disconnect(gateway)
        uplink.disconnect(login)
        try:
            wait_for_tunnel(stack, up=False, within_s=NOTICED_S)
            asked = [clients.submit(ask, stack) for _ in range(ASKERS)]
            time.sleep(3)
            assert not any(one.done() for one in asked)
        finally:
            # Docker gives the lowest address that is free: each gets the other's
            back = [(gateway, ["gateway"]), (login, ["login", "demo-login"])]
            for container, aliases in back if before[0] > before[1] else reversed(back):
                uplink.connect(container, aliases=aliases)
        wait_for_tunnel(stack, up=True, within_s=BACK_S)
        assert [one.result(timeout=60) for one in asked] == [200] * ASKERS
    now = [address(stack, service) for service in ("gateway", "demo-login")]
    assert all(now) and all(here != there for here, there in zip(now, before, strict=True)), (before, now)
    assert wait_for(lambda: tunnel_state(stack)["connections"] == 1, 30)


@pytest.mark.long
def test_suspend_beyond_server_timeout_reconnects(stack: Stack) -> None:
    wait_for_tunnel(stack, up=True, within_s=60)
    before = tunnel_state(stack)["reconnects"]
    gateway = stack.container("gateway")
    with ThreadPoolExecutor(ASKERS) as clients:
        gateway.pause()
        try:
            asked = [clients.submit(ask, stack) for _ in range(ASKERS)]
            # the far end of the connection, as sshd's ClientAliveInterval ends it in the night
            ended = stack.on("demo-login", ["pkill", "-KILL", "-u", "researcher", "sshd"])
            assert ended.status == 0, ended.output
            time.sleep(8)
        finally:
            gateway.unpause()
        assert [one.result(timeout=60) for one in asked] == [200] * ASKERS
    wait_for_tunnel(stack, up=True, within_s=BACK_S)
    assert tunnel_state(stack)["reconnects"] == before + 1
    stack.wait_healthy("gateway")
