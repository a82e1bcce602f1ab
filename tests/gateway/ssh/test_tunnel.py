"""The tunnel: connects, notices, connects again; asks people; never hammers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from .conftest import LoginNode, Script, door_of, make_settings, reached, tcp_server, until

MENU = "Duo two-factor login for researcher\n\n 1. Duo Push to XXX-XXX-1234\n\nPasscode or option (1-1): "


@pytest.fixture
def asking(login_node: LoginNode) -> Script:
    """The login node asks for a passcode and takes 123456."""
    login_node.script = Script(
        [("Enter a passcode", [("Passcode or option (1-1): ", False)])], lambda a: a == ["123456"]
    )
    return login_node.script


@asynccontextmanager
async def started(node: LoginNode, store: Store, **changes: object) -> AsyncIterator[Gateway]:
    gateway = Gateway(make_settings(node, **changes), store)
    async with gateway.running():
        yield gateway


async def prompted(gateway: Gateway) -> TunnelStatus:
    """The status once a prompt is open."""
    await until(lambda: gateway.tunnel.status().prompt is not None)
    return gateway.tunnel.status()


async def answer(gateway: Gateway, status: TunnelStatus, *responses: str) -> int:
    assert status.prompt is not None
    async with door_of(gateway) as door:
        body = {"prompt_id": status.prompt.id, "responses": list(responses)}
        return (await door.post("/v1/answer", json=body)).status_code


async def test_a_key_is_enough_where_nothing_more_is_asked(login_node: LoginNode, store: Store) -> None:
    async with started(login_node, store) as gateway:
        status = await reached(gateway, TunnelState.UP)
    assert (status.connections, status.reconnects, status.detail, status.prompt) == (1, 0, "", None)
    assert (login_node.accepted, login_node.logins) == (1, ["researcher"])


async def test_a_prompt_is_parked_and_answered(login_node: LoginNode, asking: Script, store: Store) -> None:
    async with started(login_node, store) as gateway:
        status = await prompted(gateway)
        assert status.state is TunnelState.NEEDS_HUMAN
        assert status.prompt is not None
        assert (status.prompt.title, status.prompt.questions, status.prompt.echo) == (
            "Duo\nEnter a passcode",
            ("Passcode or option (1-1): ",),
            (False,),
        )
        assert await answer(gateway, status, "123456") == 202
        status = await reached(gateway, TunnelState.UP)
        assert status.prompt is None
    assert (login_node.accepted, asking.seen) == (1, [["123456"]])


async def test_answers_are_never_logged(
    login_node: LoginNode, asking: Script, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with started(login_node, store) as gateway:
        assert await answer(gateway, await prompted(gateway), "123456") == 202
        await reached(gateway, TunnelState.UP)
        assert "123456" not in gateway.tunnel.status().model_dump_json()
    assert "123456" not in caplog.text


async def test_a_wrong_code_is_said_and_asked_again(login_node: LoginNode, asking: Script, store: Store) -> None:
    async with started(login_node, store) as gateway:
        first = await prompted(gateway)
        assert await answer(gateway, first, "000000") == 202
        await until(lambda: gateway.tunnel.status().prompt not in (None, first.prompt))
        second = gateway.tunnel.status()
        assert second.prompt is not None
        assert second.prompt.title.startswith(NOT_ACCEPTED)
        assert await answer(gateway, first, "123456") == 409
        assert await answer(gateway, second, "123456") == 202
        await reached(gateway, TunnelState.UP)
    assert login_node.accepted == 1


async def test_several_rounds_and_several_questions(login_node: LoginNode, store: Store) -> None:
    rounds = [("", [("Password: ", False), ("Site: ", True)]), ("Code", [("Code: ", False)])]
    login_node.script = Script(rounds, lambda answers: True)
    async with started(login_node, store) as gateway:
        first = await prompted(gateway)
        assert first.prompt is not None
        assert first.prompt.echo == (False, True)
        assert await answer(gateway, first, "only one") == 400
        assert await answer(gateway, first, "a", "b") == 202
        await until(lambda: gateway.tunnel.status().prompt not in (None, first.prompt))
        second = gateway.tunnel.status()
        assert second.prompt is not None
        assert not second.prompt.title.startswith(NOT_ACCEPTED)
        assert await answer(gateway, second, "c") == 202
        await reached(gateway, TunnelState.UP)
    assert login_node.script.seen == [["a", "b"], ["c"]]


async def test_a_prompt_nobody_answers_waits_for_a_person(login_node: LoginNode, asking: Script, store: Store) -> None:
    async with started(login_node, store, prompt_timeout_s=0.2) as gateway:
        await prompted(gateway)
        await until(lambda: "nobody answered" in gateway.tunnel.status().detail)
        # that would be time for another try
        await asyncio.sleep(0.4)
        status = gateway.tunnel.status()
        assert (status.state, status.prompt, status.retry_at) == (TunnelState.NEEDS_HUMAN, None, None)
        assert login_node.accepted == 1
        async with door_of(gateway) as door:
            refused = await door.post("/v1/run", json={"argv": ["squeue"]})
            assert (refused.status_code, refused.json()["kind"]) == (503, "human_needed")
            assert (await door.post("/v1/connect")).status_code == 202
        assert await answer(gateway, await prompted(gateway), "123456") == 202
        await reached(gateway, TunnelState.UP)


async def test_a_server_that_hangs_up_on_its_question_is_not_asked_again_unasked(
    login_node: LoginNode, asking: Script, store: Store
) -> None:
    async with started(login_node, store) as gateway:
        await prompted(gateway)
        login_node.cut()
        await until(lambda: gateway.tunnel.status().prompt is None)
        # that would be time for another try
        await asyncio.sleep(0.4)
        status = gateway.tunnel.status()
        assert (status.state, status.prompt, status.retry_at) == (TunnelState.NEEDS_HUMAN, None, None)
        assert login_node.accepted == 1


async def test_the_menu_is_answered_by_itself_once_a_minute_when_asked_for(login_node: LoginNode, store: Store) -> None:
    login_node.script = Script([("", [(MENU, True)])], lambda answers: answers == ["1"])
    async with started(login_node, store, mfa_auto="1") as gateway:
        await reached(gateway, TunnelState.UP)
        login_node.cut()
        status = await prompted(gateway)
        assert login_node.script.seen == [["1"]]
        assert await answer(gateway, status, "1") == 202
        await reached(gateway, TunnelState.UP)


async def test_one_prompt_a_cut_and_none_extra(login_node: LoginNode, asking: Script, store: Store) -> None:
    async with started(login_node, store) as gateway:
        for _ in range(3):
            assert await answer(gateway, await prompted(gateway), "123456") == 202
            await reached(gateway, TunnelState.UP)
            login_node.cut()
        await prompted(gateway)
    assert len(asking.seen) == 3
    assert login_node.accepted == 4


async def test_a_day_with_twenty_cuts_asks_twenty_one_times(
    login_node: LoginNode, asking: Script, store: Store
) -> None:
    async with started(login_node, store) as gateway:
        for cut in range(21):
            assert await answer(gateway, await prompted(gateway), "123456") == 202
            await reached(gateway, TunnelState.UP)
            if cut == 20:
                break
            login_node.cut()
            await until(lambda: gateway.tunnel.status().state is not TunnelState.UP)
            # cuts of a day lie hours apart: each is the first of a new row
            gateway.tunnel.connect_now()
        await asyncio.sleep(0.3)
        assert gateway.tunnel.status().prompt is None
    assert (len(asking.seen), login_node.accepted) == (21, 21)


async def test_an_unknown_host_key_is_refused_and_shown(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "known_hosts").write_text("# nothing\nnot a line of known_hosts\n")
    async with started(login_node, store) as gateway:
        status = await reached(gateway, TunnelState.REFUSED)
        assert login_node.host_key.get_fingerprint() in status.detail
        assert "is not known" in status.detail
        assert f"[127.0.0.1]:{login_node.port}" in status.detail
        assert login_node.logins == []
        login_node.trust(login_node.host_key)
        gateway.tunnel.connect_now()
        await reached(gateway, TunnelState.UP)


async def test_a_changed_host_key_is_refused_loudly(login_node: LoginNode, store: Store) -> None:
    login_node.trust(asyncssh.generate_private_key("ssh-ed25519"))
    async with started(login_node, store) as gateway:
        status = await reached(gateway, TunnelState.REFUSED)
        assert "HAS CHANGED" in status.detail
        assert login_node.host_key.get_fingerprint() in status.detail
        async with door_of(gateway) as door:
            refused = await door.post("/v1/run", json={"argv": ["squeue"]})
        assert (refused.status_code, refused.json()["kind"]) == (503, "human_needed")
    assert login_node.logins == []


async def test_a_known_key_of_another_kind_is_refused_loudly(login_node: LoginNode, store: Store) -> None:
    login_node.trust(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    async with started(login_node, store) as gateway:
        status = await reached(gateway, TunnelState.REFUSED)
    assert "host key" in status.detail
    assert login_node.logins == []


async def test_a_refused_login_is_not_hammered(login_node: LoginNode, store: Store) -> None:
    login_node.accepted_key = asyncssh.generate_private_key("ssh-ed25519")
    async with started(login_node, store) as gateway:
        status = await reached(gateway, TunnelState.REFUSED)
        assert "Permission denied" in status.detail
        assert status.retry_at is not None
        assert 28 < (status.retry_at - status.since).total_seconds() < 31
        async with door_of(gateway) as door:
            for _ in range(20):
                assert (await door.post("/v1/run", json={"argv": ["squeue"]})).json()["kind"] == "human_needed"
        await asyncio.sleep(0.3)
        assert login_node.accepted == 1
        login_node.accepted_key = login_node.user_key
        gateway.tunnel.connect_now()
        await reached(gateway, TunnelState.UP)


async def test_a_cut_is_mended_at_once(login_node: LoginNode, store: Store) -> None:
    async with started(login_node, store) as gateway:
        await reached(gateway, TunnelState.UP)
        login_node.cut()
        await until(lambda: gateway.tunnel.status().reconnects == 1)
        status = gateway.tunnel.status()
        assert (status.connections, status.reconnects) == (1, 1)


async def test_how_far_the_login_node_is_and_what_went_wrong_last_are_shown(
    login_node: LoginNode, store: Store
) -> None:
    async with started(login_node, store) as gateway:
        await reached(gateway, TunnelState.UP)
        await until(lambda: gateway.tunnel.status().round_trip_ms is not None)
        assert 0 < (gateway.tunnel.status().round_trip_ms or 0) < 2000
        assert gateway.tunnel.status().last_error == ""
        login_node.cut()
        await until(lambda: gateway.tunnel.status().reconnects == 1)
        assert "the connection was lost" in gateway.tunnel.status().last_error


async def test_a_server_of_garbage_is_survived(login_node: LoginNode, store: Store) -> None:
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

    for hostile in (garbage, endless_banner):
        async with tcp_server(hostile) as port:
            ssh = make_settings(login_node).ssh.model_copy(update={"port": port, "handshake_timeout_s": 0.5})
            async with started(login_node, store, ssh=ssh) as gateway:
                status = await reached(gateway, TunnelState.DOWN)
                assert status.retry_at is not None


async def test_a_server_that_never_speaks_is_given_up(login_node: LoginNode, store: Store) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with tcp_server(mute) as port:
        ssh = make_settings(login_node).ssh.model_copy(update={"port": port, "handshake_timeout_s": 0.2})
        async with started(login_node, store, ssh=ssh) as gateway:
            status = await reached(gateway, TunnelState.DOWN)
            assert "did not answer" in status.detail


async def test_the_ssh_config_is_honoured(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "id_ed25519").rename(login_node.ssh_dir / "work_key")
    (login_node.ssh_dir / "known_hosts").rename(login_node.ssh_dir / "hosts_of_work")
    (login_node.ssh_dir / "config").write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {login_node.port}\n  User somebody\n"
        "  IdentityFile /home/elsewhere/.ssh/work_key\n  UserKnownHostsFile ~/.ssh/hosts_of_work\n"
        "  ConnectTimeout 1\n  RequestTTY force\n  RemoteCommand tmux\n  ServerAliveInterval 60\n"
    )
    login_node.program("squeue", "#!/bin/sh\necho fine\n")
    settings = make_settings(login_node)
    ssh = settings.ssh.model_copy(update={"hosts": ("cluster",), "user": "not-used", "port": None})
    async with started(login_node, store, ssh=ssh) as gateway, door_of(gateway) as door:
        await reached(gateway, TunnelState.UP)
        assert (await door.post("/v1/run", json={"argv": ["squeue"]})).json()["stdout"] == "fine\n"
        assert (await door.put("/v1/files", params={"path": "~/bouchet/x"}, content=b"x")).status_code == 204
    assert login_node.logins == ["somebody"]


async def test_a_config_that_cannot_be_read_is_said(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "config").write_text("Host *\n  Port many\n")
    async with started(login_node, store) as gateway:
        status = await reached(gateway, TunnelState.REFUSED)
    assert "line 2" in status.detail


async def test_stopping_closes_the_connection(login_node: LoginNode, store: Store) -> None:
    async with started(login_node, store) as gateway:
        await reached(gateway, TunnelState.UP)
    await until(lambda: not login_node.connections, 2)
    assert gateway.tunnel.status().state is TunnelState.DOWN


async def test_another_login_node_takes_over_when_one_is_gone(login_node: LoginNode, store: Store) -> None:
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    (login_node.ssh_dir / "config").write_text(
        f"Host gone\n  HostName 127.0.0.1\n  Port {nobody.getsockname()[1]}\n"
        f"Host there\n  HostName 127.0.0.1\n  Port {login_node.port}\n"
    )
    ssh = make_settings(login_node).ssh.model_copy(update={"hosts": ("gone", "there"), "port": None})
    async with started(login_node, store, ssh=ssh) as gateway:
        assert (await reached(gateway, TunnelState.UP)).host == "there"
        login_node.cut()
        await until(lambda: gateway.tunnel.status().reconnects == 1)
        # one that worked is asked first
        assert (gateway.tunnel.status().host, login_node.accepted) == ("there", 2)
    nobody.close()
