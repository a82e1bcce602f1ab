"""known_hosts as OpenSSH reads it: on the same file and server, the gateway's result is that of the real ssh."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import asyncssh
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.ssh.host_keys import parse_known_hosts

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
    person.write(f"IdentityFile FOLDER/hpc\n StrictHostKeyChecking yes\n UpdateHostKeys no\n {line}")
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
