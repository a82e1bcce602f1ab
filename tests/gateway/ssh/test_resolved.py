"""Logins as ssh resolved them: on the same configuration and server, the gateway's result is that of the real ssh."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus

from setup.files.ssh_config import make_ask, resolve_hosts
from tests.gateway.login_node import LoginNode, PromptScript
from tests.gateway.running import answer_prompt, started, wait_for_prompt, wait_for_state, wait_until


class Person:
    """Someone with an ssh config of their own. Files are in one folder, which the gateway does not see."""

    def __init__(self, folder: Path, node: LoginNode) -> None:
        self.folder, self.node = folder, node
        self.agent: Path | None = None
        self.notes: list[object] = []
        folder.mkdir()
        (folder / "known").write_bytes((node.ssh_dir / "known_hosts").read_bytes())
        for path in node.ssh_dir.iterdir():
            path.unlink()

    def write(self, lines: str, more: str = "") -> None:
        """Write the config: a block for `bouchet`, and more blocks."""
        known = f"UserKnownHostsFile {self.folder}/known\n GlobalKnownHostsFile /dev/null"
        place = f"HostName 127.0.0.1\n Port {self.node.port}\n User bob\n"
        lines = lines.replace("FOLDER", str(self.folder))
        (self.folder / "config").write_text(f"Host bouchet\n {lines}\n {place}\n{more}\nHost *\n {known}\n")

    async def ssh_logs_in(self) -> bool:
        """Tell whether the real ssh logs in and runs a command, without asking anybody."""
        environ = {**os.environ, "SSH_AUTH_SOCK": str(self.agent or "")}
        argv = ["ssh", "-T", "-F", str(self.folder / "config"), "-o", "BatchMode=yes", "bouchet", "true"]
        process = await asyncio.create_subprocess_exec(
            *argv, env=environ, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0

    def settings(self, key: str | None = None) -> dict[str, object]:
        """Resolve the login as `make up` does; return the gateway's settings. key: the mounted key file."""
        hosts = resolve_hosts(["bouchet"], make_ask(self.folder / "config"), self.notes.append)
        (self.node.ssh_dir / "resolved.json").write_text(json.dumps({"format": 1, "hosts": hosts}))
        return {
            "hosts": ("bouchet",),
            "user": None,
            "port": None,
            "agent_socket": str(self.agent) if self.agent else None,
            "key_file": self.folder / key if key else None,
        }

    async def gateway_state(self, store: Store, key: str | None = None) -> TunnelStatus:
        """Return the tunnel's status once it is decided."""
        decided = (TunnelState.UP, TunnelState.REFUSED, TunnelState.NEEDS_HUMAN)
        async with started(self.node, store, ssh=self.settings(key)) as gateway:
            await wait_until(lambda: gateway.tunnel.status().state in decided)
            return gateway.tunnel.status()

    def add_to_agent(self, name: str) -> None:
        environ = {**os.environ, "SSH_AUTH_SOCK": str(self.agent)}
        subprocess.run(["ssh-add", "-q", self.folder / name], env=environ, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def person(login_node: LoginNode, tmp_path: Path) -> Person:
    return Person(tmp_path / "person", login_node)


@pytest.fixture
def agent(person: Person, tmp_path: Path) -> Iterator[Path]:
    """Run an agent of the person's, without a key."""
    person.agent = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(person.agent)], stdout=subprocess.DEVNULL) as process:
        while not person.agent.exists():
            assert process.poll() is None
        yield person.agent
        process.terminate()


def make_key(person: Person, name: str) -> Path:
    path = person.folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def certified(person: Person) -> Path:
    """Make a key with a certificate; the server accepts certificates alone."""
    make_key(person, "ca")
    key = make_key(person, "hpc")
    sign = ["ssh-keygen", "-q", "-s", f"{person.folder}/ca", "-I", "me", "-n", "bob", f"{person.folder}/hpc.pub"]
    subprocess.run(sign, check=True)
    person.node.ca_key = asyncssh.read_public_key(person.folder / "ca.pub")
    return key


def hide_certificate(person: Person, name: str) -> None:
    (person.folder / "hpc-cert.pub").rename(person.folder / name)


ONLY = "IdentitiesOnly yes\n IdentityFile FOLDER/hpc"


# field.md, kind 2: what ssh offers for one IdentityFile
@pytest.mark.parametrize(
    ("lines", "in_agent", "renamed", "works"),
    [
        pytest.param(ONLY, "both", "", True, id="A-agent-holds-both"),
        pytest.param(f"{ONLY}\n CertificateFile FOLDER/hpc-cert.pub", "both", "", True, id="B-and-certificate-file"),
        pytest.param(ONLY, "none", "", True, id="C-key-file-implicit-certificate"),
        pytest.param("CertificateFile FOLDER/c.pub", "key", "c.pub", True, id="D-agent-key-and-certificate-file"),
        pytest.param(ONLY, "key", "", True, id="E-agent-key-implicit-certificate"),
        pytest.param("IdentityFile FOLDER/hpc.pub\n CertificateFile FOLDER/c.pub", "key", "c.pub", True, id="public"),
        pytest.param(f"{ONLY}\n CertificateFile FOLDER/c", "none", "c.pub", True, id="certificate-without-pub"),
        pytest.param("", "both", "", True, id="agent-alone"),
        pytest.param(ONLY, "key", "c.pub", False, id="no-certificate"),
        pytest.param(f"{ONLY}\n CertificateFile FOLDER/none", "key", "", False, id="named-replaces-implicit"),
        pytest.param("IdentitiesOnly yes\n IdentityFile FOLDER/ca", "both", "", False, id="another-key-only"),
        pytest.param(f"{ONLY}\n PubkeyAuthentication no", "both", "", False, id="no-public-keys"),
        pytest.param(f"{ONLY}\n IdentityAgent none", "both", "", True, id="key-file-not-the-agent"),
    ],
)
async def test_login_offers_the_certificates_that_ssh_offers(
    person: Person, certified: Path, agent: Path, store: Store, lines: str, in_agent: str, renamed: str, works: bool
) -> None:
    if in_agent == "key" or renamed:
        hide_certificate(person, renamed or "hidden")
    if in_agent != "none":
        person.add_to_agent("hpc")
    if in_agent == "key" and not renamed:
        (person.folder / "hidden").rename(person.folder / "hpc-cert.pub")
    person.write(lines)
    assert await person.ssh_logs_in() is works
    uses_file = in_agent == "none" or "IdentityAgent none" in lines
    status = await person.gateway_state(store, key="hpc" if uses_file else None)
    assert (status.state is TunnelState.UP) is works, status.detail


async def test_login_without_the_named_certificate_uses_the_key(person: Person, store: Store) -> None:
    key = make_key(person, "hpc")
    person.node.accepted_key = asyncssh.read_private_key(key)
    person.write("IdentityFile FOLDER/hpc\n CertificateFile FOLDER/nope-cert.pub")
    assert await person.ssh_logs_in()
    assert (await person.gateway_state(store, key="hpc")).state is TunnelState.UP
    assert "nope-cert.pub" in str(person.notes[0])


@pytest.mark.parametrize("setting", ["accept-new", "no", "yes"])
async def test_login_to_an_unknown_host_key_follows_the_setting(person: Person, store: Store, setting: str) -> None:
    key = make_key(person, "hpc")
    person.node.accepted_key = asyncssh.read_private_key(key)
    (person.folder / "known").unlink()
    person.write(f"IdentityFile FOLDER/hpc\n StrictHostKeyChecking {setting}")
    status = await person.gateway_state(store, key="hpc")
    assert (status.state is TunnelState.UP) is (setting != "yes")
    (person.folder / "known").unlink(missing_ok=True)
    assert await person.ssh_logs_in() is (setting != "yes")


@pytest.fixture
async def gate(person: Person, tmp_path: Path) -> AsyncIterator[LoginNode]:
    """Run a jump host, whose key the person knows."""
    node = LoginNode(tmp_path / "gate")
    await node.start()
    with (person.folder / "known").open("a") as known:
        known.write((node.ssh_dir / "known_hosts").read_text())
    yield node
    await node.stop()


@pytest.mark.parametrize(
    "line",
    [
        "ProxyJump gate",
        "ProxyJump jim@gate:PORT",
        "ProxyCommand ssh -F FOLDER/config -q -W %h:%p gate",
        "ProxyCommand ssh -F FOLDER/config -W [%h]:%p -l jim gate 2>/dev/null",
    ],
)
async def test_login_over_a_jump_host_is_that_of_ssh(person: Person, gate: LoginNode, store: Store, line: str) -> None:
    key = make_key(person, "hpc")
    gate.accepted_key = person.node.accepted_key = asyncssh.read_private_key(key)
    block = f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n User jim\n IdentityFile {key}\n"
    person.write(f"IdentityFile FOLDER/hpc\n {line.replace('PORT', str(gate.port))}", block)
    assert await person.ssh_logs_in()
    gate.logins.clear()
    person.node.logins.clear()
    assert (await person.gateway_state(store, key="hpc")).state is TunnelState.UP
    assert (gate.logins, person.node.logins) == (["jim"], ["bob"])


async def test_login_by_password_asks_as_ssh_does(person: Person, store: Store) -> None:
    person.node.password = "right"
    person.write("IdentityFile none\n IdentityAgent none")
    async with started(person.node, store, ssh=person.settings()) as gateway:
        first = await wait_for_prompt(gateway)
        assert first.prompt is not None
        assert (first.prompt.questions, first.prompt.echo) == (("bob@bouchet's password: ",), (False,))
        assert await answer_prompt(gateway, first, "wrong") == 202
        second = await wait_for_prompt(gateway, after=first)
        assert second.prompt is not None and "not accepted" in second.prompt.title
        assert await answer_prompt(gateway, second, "right") == 202
        await wait_for_state(gateway, TunnelState.UP)
    assert person.node.passwords == ["wrong", "right"]


async def test_login_by_password_stops_after_the_tries_of_ssh(person: Person, store: Store) -> None:
    person.node.password = "right"
    person.write("IdentityFile none\n NumberOfPasswordPrompts 1")
    async with started(person.node, store, ssh=person.settings()) as gateway:
        assert await answer_prompt(gateway, await wait_for_prompt(gateway), "wrong") == 202
        await wait_for_state(gateway, TunnelState.REFUSED)
    assert person.node.passwords == ["wrong"]


async def test_login_password_is_not_asked_where_ssh_does_not(person: Person, store: Store) -> None:
    person.node.password = "right"
    person.write("IdentityFile none\n PasswordAuthentication no")
    assert (await person.gateway_state(store)).state is TunnelState.REFUSED
    assert person.node.passwords == []


async def test_login_file_of_another_version_is_a_sentence(person: Person, store: Store) -> None:
    person.write("IdentityFile none")
    settings = person.settings()
    (person.node.ssh_dir / "resolved.json").write_text('{"format": 99, "hosts": {}}')
    async with started(person.node, store, ssh=settings) as gateway:
        status = await wait_for_state(gateway, TunnelState.REFUSED)
    assert "run `make up` again" in status.detail


async def test_login_duo_menu_after_sms_says_what_the_server_says(person: Person, store: Store) -> None:
    menu = [("Passcode or option (1-3): ", False)]
    script = PromptScript([("Duo for bob", menu), ("New SMS passcodes sent.", menu)], lambda answers: True)
    person.node.script = script
    person.write("IdentityFile none")
    async with started(person.node, store, ssh=person.settings()) as gateway:
        first = await wait_for_prompt(gateway)
        assert await answer_prompt(gateway, first, "3") == 202
        second = await wait_for_prompt(gateway, after=first)
        assert second.prompt is not None and second.prompt.title.splitlines()[-1] == "New SMS passcodes sent."
        assert "not accepted" not in second.prompt.title
        assert await answer_prompt(gateway, second, "1234567") == 202
        await wait_for_state(gateway, TunnelState.UP)
    assert script.answers == [["3"], ["1234567"]]
