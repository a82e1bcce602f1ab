"""known_hosts as OpenSSH reads it: on the same file and server, the gateway's result is that of the real ssh."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.ssh.host_keys import KnownHosts, parse_known_hosts

from setup.files.ssh_config import make_ask, resolve_hosts
from tests.gateway.login_node import LoginNode
from tests.gateway.ssh.test_resolved import Person, make_key

# PLACE: the host as known_hosts writes it with its port; KEY: the server's key; OTHER: another one of its type
CASES = {
    "plain": ("PLACE KEY\n", ""),
    "no line end": ("PLACE KEY", ""),
    "carriage returns": ("PLACE KEY\r\n", ""),
    "blanks and tabs before": (" \t PLACE KEY\n", ""),
    "tabs between": ("PLACE\tKEY\n", ""),
    "a comment behind": ("PLACE KEY of the site, 2026\n", ""),
    "a comment line": ("# PLACE KEY\n", ""),
    "another port": ("127.0.0.1 KEY\n", ""),
    "several names": ("other,PLACE,more KEY\n", ""),
    "a pattern": ("[127.0.0.*]:* KEY\n", ""),
    "a pattern that is negated": ("[127.0.0.*]:*,!PLACE KEY\n", ""),
    "a question mark": ("[127.0.0.?]:PORT KEY\n", ""),
    "another key": ("PLACE OTHER\n", ""),
    "another key first": ("PLACE OTHER\nPLACE KEY\n", ""),
    "revoked": ("PLACE KEY\n@revoked PLACE KEY\n", ""),
    "revoked everywhere": ("@revoked * KEY\nPLACE KEY\n", ""),
    "another is revoked": ("@revoked * OTHER\nPLACE KEY\n", ""),
    "an authority's mark": ("@cert-authority PLACE KEY\n", ""),
    "an unknown mark": ("@trusted PLACE KEY\nPLACE KEY\n", ""),
    "broken lines before": ("PLACE ssh-ed25519 AAAA\nPLACE\n\x00\nPLACE KEY\n", ""),
    "an unknown type before": ("PLACE ssh-future AAAAB3Nz\nPLACE KEY\n", ""),
    "letters of other scripts": ("hôte.example ssh-ed25519 ключ\nPLACE KEY\n", ""),
    "an alias": ("cluster KEY\n", "HostKeyAlias cluster"),
    "an alias has no port": ("[cluster]:PORT KEY\n", "HostKeyAlias cluster"),
    "an alias replaces the address": ("PLACE KEY\n", "HostKeyAlias cluster"),
    "an alias like a place": ("[cluster]:PORT KEY\n", "HostKeyAlias [cluster]:PORT"),
    "an alias like a place of another port": ("[cluster]:2222 KEY\n", "HostKeyAlias [cluster]:2222"),
    "an alias like a place, without its port": ("cluster KEY\n", "HostKeyAlias [cluster]:2222"),
    "an alias like a place, another key": ("[cluster]:2222 OTHER\ncluster KEY\n", "HostKeyAlias [cluster]:2222"),
    "an alias in capitals": ("cluster KEY\n", "HostKeyAlias Cluster"),
    "capitals in the file": ("Cluster KEY\n", "HostKeyAlias cluster"),
    "capitals in both": ("Cluster KEY\n", "HostKeyAlias Cluster"),
    "an alias and a pattern": ("clu*,other KEY\n", "HostKeyAlias cluster"),
    "an alias and a pattern in capitals": ("CLU* KEY\n", "HostKeyAlias cluster"),
    "an alias, other key at the place": ("cluster KEY\nPLACE OTHER\n", "HostKeyAlias cluster"),
    "an alias that is revoked": ("cluster KEY\n@revoked cluster KEY\n", "HostKeyAlias cluster"),
    "revoked without the port": ("PLACE KEY\n@revoked 127.0.0.1 KEY\n", ""),
    "revoked with the port": ("@revoked PLACE KEY\n127.0.0.1 KEY\n", ""),
    "other key with the port": ("PLACE OTHER\n127.0.0.1 KEY\n", ""),
    "other key without the port": ("PLACE KEY\n127.0.0.1 OTHER\n", ""),
    "an authority with the port": ("@cert-authority PLACE OTHER\n127.0.0.1 KEY\n", ""),
    "a network": ("127.0.0.0/8 KEY\n", ""),
    "the address of a name": ("[127.0.0.1]:PORT KEY\n", "HostName localhost\n CheckHostIP yes"),
    "a name and its address": ("[localhost]:PORT KEY\n", "HostName localhost"),
    "a name in capitals": ("[localhost]:PORT KEY\n", "HostName LOCALHOST"),
    "no line at all": ("", ""),
    "a separator of lines in a comment": ("PLACE OTHER x\u2028PLACE KEY\n", ""),
    "a form feed in a comment": ("PLACE OTHER x\x0cPLACE KEY\n", ""),
}


def filled(text: str, person: Person, server: str, other: str) -> str:
    place = f"[127.0.0.1]:{person.node.port}"
    for word, value in (("PLACE", place), ("KEY", server), ("OTHER", other), ("PORT", str(person.node.port))):
        text = text.replace(word, value)
    return text


@pytest.fixture
def person(login_node: LoginNode, tmp_path: Path) -> Person:
    """Return a person whose key the login node takes."""
    person = Person(tmp_path / "person", login_node)
    person.node.accepted_key = asyncssh.read_private_key(make_key(person, "hpc"))
    return person


@pytest.mark.parametrize("case", CASES)
async def test_host_key_is_known_where_ssh_knows_it(person: Person, store: Store, case: str) -> None:
    text, line = CASES[case]
    server = " ".join(person.node.host_key.export_public_key().decode().split()[:2])
    other = " ".join((make_key(person, "other").with_suffix(".pub")).read_text().split()[:2])
    known = filled(text, person, server, other)
    (person.folder / "known").write_text(known, newline="")
    line = filled(line, person, server, other)
    # the first HostName counts
    person.write(f"{line}\n IdentityFile FOLDER/hpc\n StrictHostKeyChecking yes\n UpdateHostKeys no")
    by_ssh = await person.ssh_logs_in()
    status = await person.gateway_state(store, key="hpc")
    assert (status.state is TunnelState.UP) is by_ssh, status.detail


def hash_names(path: Path) -> None:
    """Hash the hosts of a known_hosts file, as Debian does by default."""
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)


async def test_hashed_names_and_several_files_are_read(person: Person, store: Store) -> None:
    place, key = f"[127.0.0.1]:{person.node.port}", person.node.host_key.export_public_key().decode().strip()
    hashed = person.folder / "known hashed"
    hashed.write_text(f"{place} {key}\n")
    await asyncio.to_thread(hash_names, hashed)
    assert place not in hashed.read_text()
    (person.folder / "known").write_text("# empty\n")
    person.write(f'IdentityFile FOLDER/hpc\n StrictHostKeyChecking yes\n UserKnownHostsFile /none "{hashed}"')
    assert await person.ssh_logs_in()
    assert (await person.gateway_state(store, key="hpc")).state is TunnelState.UP


def test_parse_known_hosts_ends_lines_where_ssh_does() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    known = parse_known_hosts([f"one {key} x\u2028two {key}\r\nthree {key}\r\n"])
    found = [host for host in ("one", "two", "three") if asyncssh.match_known_hosts(known, host, "", None)[0]]
    assert found == ["one", "three"]


# PRINT: a program that prints its arguments, but the first, which is its exit status
COMMANDS = {
    "a key": ("PRINT 0 PLACE KEY", ""),
    "the name as a token": ("PRINT 0 %H KEY", ""),
    "the name as a token, an alias": ("PRINT 0 %H KEY", "HostKeyAlias cluster"),
    "quotes": ('PRINT "0" "PLACE KEY"', ""),
    "a percent sign": ("PRINT 0 PLACE KEY 100%%", ""),
    "what it is asked for": ("PRINT 0 PLACE,%I KEY", ""),
    "another key": ("PRINT 0 PLACE OTHER", ""),
    "nothing": ("PRINT 0", ""),
    "a failure": ("PRINT 1 PLACE KEY", ""),
    "no such program": ("/no/such/program", ""),
    "no command": ("none", ""),
}


@pytest.mark.parametrize("case", COMMANDS)
async def test_known_hosts_command_is_asked_as_ssh_asks_it(person: Person, store: Store, case: str) -> None:
    command, line = COMMANDS[case]
    server = " ".join(person.node.host_key.export_public_key().decode().split()[:2])
    other = " ".join((make_key(person, "other").with_suffix(".pub")).read_text().split()[:2])
    program = person.folder / "print"
    program.write_text('#!/bin/sh\nstatus=$1; shift; echo "$*"; exit "$status"\n')
    program.chmod(0o755)
    (person.folder / "known").write_text("")
    command = filled(command, person, server, other).replace("PRINT", str(program))
    person.write(f"KnownHostsCommand {command}\n {line}\n IdentityFile FOLDER/hpc\n StrictHostKeyChecking yes")
    by_ssh = await person.ssh_logs_in()
    status = await person.gateway_state(store, key="hpc")
    assert (status.state is TunnelState.UP) is by_ssh, (status.detail, person.notes)
    assert bool(person.notes) is (case in ("a failure", "no such program"))


async def test_command_that_asks_about_a_presented_key_is_a_note(person: Person) -> None:
    person.write("KnownHostsCommand /usr/bin/ask %H %f\n IdentityFile FOLDER/hpc")
    await asyncio.to_thread(person.settings)
    assert len(person.notes) == 1 and "bouchet tunnel --trust" in str(person.notes[0])


@pytest.mark.parametrize(
    ("alias", "place", "asked", "names"),
    [
        (None, None, ("Host", 22), ("host",)),
        (None, None, ("host", None), ("host",)),
        (None, None, ("host", 2222), ("[host]:2222", "host")),
        (None, None, ("::1", 2222), ("[::1]:2222", "::1")),
        ("[Name]:99", None, ("host", 2222), ("[name]:99",)),
        # a ProxyCommand connects to another place
        (None, ("host", 22), ("10.0.0.1", 2222), ("host",)),
        (None, ("host", 2222), ("10.0.0.1", 22), ("[host]:2222", "host")),
        ("name", ("host", 2222), ("10.0.0.1", 22), ("name",)),
    ],
)
def test_names_under_which_a_host_is_searched(
    alias: str | None, place: tuple[str, int] | None, asked: tuple[str, int | None], names: tuple[str, ...]
) -> None:
    assert KnownHosts(parse_known_hosts([]), alias, place).names(*asked) == names


async def test_file_that_is_named_by_the_connections_hash_is_read(person: Person, store: Store) -> None:
    key = person.node.host_key.export_public_key().decode().strip()
    person.write("IdentityFile FOLDER/hpc\n StrictHostKeyChecking yes\n UserKnownHostsFile FOLDER/%C.hosts")
    hosts = await asyncio.to_thread(resolve_hosts, ["bouchet"], make_ask(person.folder / "config"), print)
    assert hosts["bouchet"][0]["known_hosts"] == ""
    argv = ["ssh", "-v", "-F", str(person.folder / "config"), "-o", "BatchMode=yes", "bouchet", "true"]
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, shown = await process.communicate()
    found = re.search(rb"([0-9a-f]{40}\.hosts)\b", shown)
    assert found, shown
    (person.folder / found[1].decode()).write_text(f"[127.0.0.1]:{person.node.port} {key}\n")
    assert await person.ssh_logs_in()
    assert (await person.gateway_state(store, key="hpc")).state is TunnelState.UP
