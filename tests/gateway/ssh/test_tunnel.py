"""The tunnel: state, login prompts, back-off and reconnects of the one SSH connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from tests.gateway.login_node import LoginNode, PromptScript
from tests.gateway.running import (
    StreamHandler,
    answer_prompt,
    connected,
    post,
    started,
    tcp_server,
    wait_for_prompt,
    wait_for_reconnect,
    wait_for_state,
    wait_until,
)

MENU = "Duo two-factor login for researcher\n\n 1. Duo Push to XXX-XXX-1234\n\nPasscode or option (1-1): "
PASSCODE = "123456"
# longer than the first delays of the network back-off
NO_RETRY_S = 0.4


@pytest.fixture
def duo(login_node: LoginNode) -> PromptScript:
    """Make the login node prompt for a passcode."""
    login_node.script = PromptScript(
        [("Enter a passcode", [("Passcode or option (1-1): ", False)])], lambda answers: answers == [PASSCODE]
    )
    return login_node.script


async def test_tunnel_accepted_key_connects_without_prompt(login_node: LoginNode, store: Store) -> None:
    async with started(login_node, store) as gateway:
        status = await wait_for_state(gateway, TunnelState.UP)
    assert (status.connections, status.reconnects, status.detail, status.prompt) == (1, 0, "", None)
    assert (login_node.accepted, login_node.logins) == (1, ["researcher"])


async def test_tunnel_prompt_answer_connects(login_node: LoginNode, duo: PromptScript, store: Store) -> None:
    async with started(login_node, store) as gateway:
        status = await wait_for_prompt(gateway)
        assert status.state is TunnelState.NEEDS_HUMAN
        assert status.prompt is not None
        assert (status.prompt.title, status.prompt.questions, status.prompt.echo) == (
            "Duo\nEnter a passcode",
            ("Passcode or option (1-1): ",),
            (False,),
        )
        assert await answer_prompt(gateway, status, PASSCODE) == 202
        status = await wait_for_state(gateway, TunnelState.UP)
        assert status.prompt is None
    assert (login_node.accepted, duo.answers) == (1, [[PASSCODE]])


async def test_tunnel_answers_are_not_logged(
    login_node: LoginNode, duo: PromptScript, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with started(login_node, store) as gateway:
        assert await answer_prompt(gateway, await wait_for_prompt(gateway), PASSCODE) == 202
        await wait_for_state(gateway, TunnelState.UP)
        assert PASSCODE not in gateway.tunnel.status().model_dump_json()
    assert PASSCODE not in caplog.text


async def test_tunnel_wrong_answer_prompts_again(login_node: LoginNode, duo: PromptScript, store: Store) -> None:
    async with started(login_node, store) as gateway:
        first = await wait_for_prompt(gateway)
        assert await answer_prompt(gateway, first, "000000") == 202
        second = await wait_for_prompt(gateway, after=first)
        assert second.prompt is not None
        assert second.prompt.title.startswith(NOT_ACCEPTED)
        assert await answer_prompt(gateway, first, PASSCODE) == 409
        assert await answer_prompt(gateway, second, PASSCODE) == 202
        await wait_for_state(gateway, TunnelState.UP)
    assert login_node.accepted == 1


async def test_tunnel_several_rounds_and_questions_are_answered(login_node: LoginNode, store: Store) -> None:
    rounds = [("", [("Password: ", False), ("Site: ", True)]), ("Code", [("Code: ", False)])]
    login_node.script = PromptScript(rounds, lambda answers: True)
    async with started(login_node, store) as gateway:
        first = await wait_for_prompt(gateway)
        assert first.prompt is not None
        assert first.prompt.echo == (False, True)
        assert await answer_prompt(gateway, first, "only one") == 400
        assert await answer_prompt(gateway, first, "a", "b") == 202
        second = await wait_for_prompt(gateway, after=first)
        assert second.prompt is not None
        assert not second.prompt.title.startswith(NOT_ACCEPTED)
        assert await answer_prompt(gateway, second, "c") == 202
        await wait_for_state(gateway, TunnelState.UP)
    assert login_node.script.answers == [["a", "b"], ["c"]]


async def test_tunnel_unanswered_prompt_waits_for_connect(
    login_node: LoginNode, duo: PromptScript, store: Store
) -> None:
    async with started(login_node, store, prompt_timeout_s=0.2) as gateway:
        await wait_for_prompt(gateway)
        await wait_until(lambda: gateway.tunnel.status().prompt is None)
        await asyncio.sleep(NO_RETRY_S)
        status = gateway.tunnel.status()
        assert (status.state, status.prompt, status.retry_at) == (TunnelState.NEEDS_HUMAN, None, None)
        assert login_node.accepted == 1
        refused = await post(gateway, "/v1/run", argv=["squeue"])
        assert (refused.status_code, refused.json()["kind"]) == (503, "human_needed")
        assert (await post(gateway, "/v1/connect")).status_code == 202
        assert await answer_prompt(gateway, await wait_for_prompt(gateway), PASSCODE) == 202
        await wait_for_state(gateway, TunnelState.UP)


async def test_tunnel_server_hangs_up_on_prompt_waits_for_connect(
    login_node: LoginNode, duo: PromptScript, store: Store
) -> None:
    async with started(login_node, store) as gateway:
        await wait_for_prompt(gateway)
        login_node.cut()
        await wait_until(lambda: gateway.tunnel.status().prompt is None)
        await asyncio.sleep(NO_RETRY_S)
        status = gateway.tunnel.status()
        assert (status.state, status.prompt, status.retry_at) == (TunnelState.NEEDS_HUMAN, None, None)
        assert login_node.accepted == 1


async def test_tunnel_open_prompt_is_named_to_callers(login_node: LoginNode, duo: PromptScript, store: Store) -> None:
    async with started(login_node, store) as gateway:
        await wait_for_prompt(gateway)
        refused = await post(gateway, "/v1/run", argv=["squeue"])
    assert (refused.status_code, refused.json()["kind"]) == (503, "human_needed")
    assert "`bouchet tunnel`" in refused.json()["detail"]


async def test_tunnel_mfa_auto_answers_once_per_minute(login_node: LoginNode, store: Store) -> None:
    login_node.script = PromptScript([("", [(MENU, True)])], lambda answers: answers == ["1"])
    async with connected(login_node, store, mfa_auto="1") as gateway:
        login_node.cut()
        status = await wait_for_prompt(gateway)
        assert login_node.script.answers == [["1"]]
        assert await answer_prompt(gateway, status, "1") == 202
        await wait_for_state(gateway, TunnelState.UP)


async def test_tunnel_twenty_cuts_prompt_twenty_one_times(
    login_node: LoginNode, duo: PromptScript, store: Store
) -> None:
    async with started(login_node, store) as gateway:
        for cut in range(21):
            assert await answer_prompt(gateway, await wait_for_prompt(gateway), PASSCODE) == 202
            await wait_for_state(gateway, TunnelState.UP)
            if cut == 20:
                break
            login_node.cut()
            await wait_until(lambda: gateway.tunnel.status().state is not TunnelState.UP)
            # skips the back-off; cuts that are hours apart have none
            gateway.tunnel.connect_now()
        await asyncio.sleep(0.3)
        assert gateway.tunnel.status().prompt is None
    assert (len(duo.answers), login_node.accepted) == (21, 21)


async def test_tunnel_refused_login_is_retried_slowly(login_node: LoginNode, store: Store) -> None:
    login_node.accepted_key = asyncssh.generate_private_key("ssh-ed25519")
    async with started(login_node, store) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
        assert "Permission denied" in status.detail
        assert status.retry_at is not None
        assert 28 < (status.retry_at - status.since).total_seconds() < 31
        for _ in range(20):
            assert (await post(gateway, "/v1/run", argv=["squeue"])).json()["kind"] == "human_needed"
        await asyncio.sleep(0.3)
        assert login_node.accepted == 1
        login_node.accepted_key = login_node.user_key
        gateway.tunnel.connect_now()
        await wait_for_state(gateway, TunnelState.UP)


async def test_tunnel_lost_connection_reconnects_and_keeps_last_error(login_node: LoginNode, store: Store) -> None:
    async with connected(login_node, store) as gateway:
        assert gateway.tunnel.status().last_error == ""
        login_node.cut()
        status = await wait_for_reconnect(gateway)
        assert (status.connections, status.reconnects) == (1, 1)
        assert status.last_error.startswith("the connection was lost: ")


async def test_tunnel_status_has_round_trip(login_node: LoginNode, store: Store) -> None:
    async with connected(login_node, store) as gateway:
        await wait_until(lambda: gateway.tunnel.status().round_trip_ms is not None)
        assert 0 < (gateway.tunnel.status().round_trip_ms or 0) < 2000


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-x\r\n" + b"\xff" * 10_000)
    writer.close()


async def endless_banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(b"hello\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0)
    except OSError:
        writer.close()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize("server", [garbage, endless_banner, silence])
async def test_tunnel_broken_server_is_retried(login_node: LoginNode, store: Store, server: StreamHandler) -> None:
    async with contextlib.AsyncExitStack() as running:
        port = await running.enter_async_context(tcp_server(server))
        ssh = {"port": port, "handshake_timeout_s": 0.3}
        gateway = await running.enter_async_context(started(login_node, store, ssh=ssh))
        status = await wait_for_state(gateway, TunnelState.DOWN)
        assert status.retry_at is not None
        assert "did not answer" in status.detail or server is not silence


async def test_tunnel_stop_closes_connection(login_node: LoginNode, store: Store) -> None:
    async with connected(login_node, store) as gateway:
        pass
    await wait_until(lambda: not login_node.connections)
    assert gateway.tunnel.status().state is TunnelState.DOWN


async def test_tunnel_unreachable_login_node_uses_next(login_node: LoginNode, store: Store) -> None:
    unused = socket.socket()
    unused.bind(("127.0.0.1", 0))
    (login_node.ssh_dir / "config").write_text(
        f"Host gone\n  HostName 127.0.0.1\n  Port {unused.getsockname()[1]}\n"
        f"Host next\n  HostName 127.0.0.1\n  Port {login_node.port}\n"
    )
    async with started(login_node, store, ssh={"hosts": ("gone", "next"), "port": None}) as gateway:
        assert (await wait_for_state(gateway, TunnelState.UP)).host == "next"
        login_node.cut()
        status = await wait_for_reconnect(gateway)
        # the one that worked is tried first
        assert (status.host, login_node.accepted) == ("next", 2)
    unused.close()
