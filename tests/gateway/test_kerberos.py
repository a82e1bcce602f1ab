"""Logins with a Kerberos ticket: a real MIT KDC, OpenSSH's sshd with GSSAPI alone, and ssh beside the gateway."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bouchet_cli.client.tickets import renew_tickets

from setup.docker.stack import Stack
from setup.files.env_file import EnvSettings
from setup.files.kerberos import holds_only_tickets, parse_klist, read_config, ticket_variables
from setup.files.ssh_config import stage_login
from setup.progress import Progress
from tests.conftest import free_port
from tests.gateway.login_node import LoginNode
from tests.gateway.running import USER
from tests.gateway.ssh.test_openssh import listens, openssh
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

SETTINGS = EnvSettings({"BOUCHET_UID": str(os.getuid()), "BOUCHET_GID": str(os.getgid()), "BOUCHET_HOST": "bouchet"})
# the login node again, at the port of compute nodes
NODE = "127.9.8.7"
REALM, PASSWORD = "LAB.TEST", "correct-horse"
SBIN = f"{os.environ['PATH']}:/usr/sbin"
PACKAGES = Path("/usr/lib/python3/dist-packages")
KDC_CONF = """[kdcdefaults]
 kdc_listen = 127.0.0.1:{port}
 kdc_tcp_listen = 127.0.0.1:{port}
[realms]
 {realm} = {{
  database_name = {folder}/principal
  key_stash_file = {folder}/stash
  acl_file = {folder}/acl
 }}
"""
# the realm is in a file of its own, as many sites have it
KRB5_CONF = """includedir {folder}/conf.d
[libdefaults]
 default_realm = {realm}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 default_keytab_name = FILE:{folder}/keytab
"""
REALMS = "[realms]\n {realm} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
ONLY_TICKETS = (
    "GSSAPIAuthentication yes\nGSSAPIStrictAcceptorCheck no\nPubkeyAuthentication no\n"
    "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
)
# what the gateway's process does at a login
LOGIN = """
import asyncio, json, sys
from pathlib import Path
from bouchet_core.errors import BouchetError
from bouchet_gateway.settings import SshSettings
from bouchet_gateway.ssh.connect import Connector
from bouchet_gateway.ssh.host_keys import TrustedHosts
from bouchet_gateway.ssh.prompts import PromptBroker

async def main():
    folder = Path(sys.argv[1])
    written = folder / "tickets.json"
    tickets = Path(json.loads(written.read_bytes())["source"]).parent if written.exists() else Path("/run/tickets")
    settings = SshSettings(hosts=("bouchet",), ssh_dir=folder, data_dir=folder.parent / "data", tickets_dir=tickets)
    broker = PromptBroker(1.0, on_change=lambda prompt: print("asked:", prompt.title) if prompt else None)
    connector = Connector(settings, broker, TrustedHosts(settings.trusted_hosts))
    try:
        login = await connector.connect()
        connection = login.connection
        for node in sys.argv[2:]:
            known = [(folder.parent / "known_hosts_of_nodes").read_text()]
            connection = await connector.connect_node(node, login.connection, known)
    except BouchetError as exc:
        print("refused:", exc)
        return
    done = await connection.run("echo $USER $SSH_CONNECTION")
    print("up:", done.stdout.strip())
    login.connection.abort()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Realm:
    """A running KDC with a person and a login node."""

    folder: Path
    environ: dict[str, str]

    def run(self, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of Kerberos' programs."""
        program = shutil.which(argv[0], path=SBIN)
        assert program, f"{argv[0]} is not installed; `make tools` installs it where it can"
        return subprocess.run(
            [program, *argv[1:]], env=self.environ, input=given, check=True, capture_output=True, text=True, timeout=120
        )

    def get_ticket(self, *options: str) -> None:
        """Type the person's password."""
        self.run("kinit", *options, USER, given=f"{PASSWORD}\n")


@pytest.fixture
def realm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Realm]:
    folder, port = tmp_path / "kdc", free_port()
    (folder / "conf.d").mkdir(parents=True)
    for name, text in (("kdc.conf", KDC_CONF), ("krb5.conf", KRB5_CONF), ("conf.d/realms", REALMS)):
        (folder / name).write_text(text.format(folder=folder, port=port, realm=REALM))
    for name, value in (
        ("KRB5_CONFIG", str(folder / "krb5.conf")),
        ("KRB5_KDC_PROFILE", str(folder / "kdc.conf")),
        ("KRB5CCNAME", f"FILE:{folder}/tickets"),
    ):
        monkeypatch.setenv(name, value)
    realm = Realm(folder, dict(os.environ))
    realm.run("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
    for query in (
        f"addprinc -pw {PASSWORD} {USER}",
        "addprinc -randkey host/127.0.0.1",
        f"addprinc -randkey host/{NODE}",
    ):
        realm.run("kadmin.local", "-q", query)
    realm.run("kadmin.local", "-q", f"ktadd -k {folder}/keytab host/127.0.0.1 host/{NODE}")
    program = shutil.which("krb5kdc", path=SBIN)
    assert program
    process = subprocess.Popen([program, "-n"], env=realm.environ)
    try:
        wait_for(lambda: process.poll() is not None or listens(port), 60)
        assert process.poll() is None
        yield realm
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Return a stack in an empty folder."""
    (tmp_path / ".secrets").mkdir(mode=0o700)
    return Stack(tmp_path, "bouchet", tmp_path / ".env", {})


@pytest.fixture
def gssapi(tmp_path: Path) -> Path:
    """Return a folder with Debian's python3-gssapi alone, as in the gateway's image."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("gssapi", "decorator.py"):
        if (PACKAGES / name).exists():
            (folder / name).symlink_to(PACKAGES / name)
    argv = [sys.executable, "-c", "import gssapi"]
    found = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, check=False)
    if found.returncode and "CI" not in os.environ:
        pytest.skip("Debian's python3-gssapi is not installed, or is for another Python")
    assert found.returncode == 0, found.stderr
    return folder


@dataclass(frozen=True)
class Person:
    """A person's machine: ssh's configuration, `make up`'s part for the login, and the gateway's process."""

    realm: Realm
    stack: Stack
    packages: Path
    config: Path

    def stage(self) -> str:
        """Do what `make up` does for the login; return what it printed."""
        printed = io.StringIO()
        with Progress(printed) as progress:
            stage_login(self.stack, SETTINGS, progress, self.config)
        return printed.getvalue()

    def staged(self) -> set[str]:
        """Return the names of the files that the gateway has."""
        return {path.name for path in self.stack.ssh_dir.iterdir()}

    def log_in(self, *nodes: str) -> str:
        """Return what comes of a login of the gateway's, in a process that has the package; of the last node's."""
        paths = os.pathsep.join([*sys.path, str(self.packages)])
        krb5 = self.stack.ssh_dir / "krb5.conf"
        environ = {**os.environ, "PYTHONPATH": paths, "KRB5_CONFIG": str(krb5 if krb5.exists() else "/dev/null")}
        environ.pop("KRB5CCNAME")
        argv = [sys.executable, "-c", LOGIN, str(self.stack.ssh_dir), *nodes]
        done = subprocess.run(argv, env=environ, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ssh_logs_in(self) -> bool:
        """Return whether ssh itself logs in."""
        argv = ["ssh", "-T", "-F", str(self.config), "-o", "BatchMode=yes", "bouchet", "true"]
        return subprocess.run(argv, env=self.realm.environ, capture_output=True, timeout=120).returncode == 0

    def expire(self, cache: Path) -> None:
        """Replace the tickets by one that has expired."""
        self.realm.get_ticket("-l", "1s", "-c", f"FILE:{cache}")
        valid = ["klist", "-s", "-c", f"FILE:{cache}"]
        wait_for(lambda: subprocess.run(valid, env=self.realm.environ, check=False).returncode, 60)


@contextmanager
def person_of(
    realm: Realm, stack: Stack, packages: Path, tmp_path: Path, lines: str = ONLY_TICKETS, pam: str = ""
) -> Iterator[Person]:
    """Run a login node, and give a person an alias for it."""
    with openssh(LoginNode(tmp_path), tmp_path / "sshd", lines, pam) as node:
        config = tmp_path / "config"
        config.write_text(
            f"Host bouchet\n HostName 127.0.0.1\n Port {node.port}\n User {USER}\n GSSAPIAuthentication yes\n"
            f" UserKnownHostsFile {node.ssh_dir}/known_hosts\n"
        )
        (stack.secrets_dir / "known_hosts_of_nodes").write_text(f"{NODE} {node.host_key.export_public_key().decode()}")
        yield Person(realm, stack, packages, config)


def test_login_with_a_ticket_is_as_sshs(realm: Realm, gssapi: Path, stack: Stack, tmp_path: Path) -> None:
    with person_of(realm, stack, gssapi, tmp_path) as person:
        person.stage()
        assert not person.ssh_logs_in() and person.log_in().startswith("refused: there is no Kerberos ticket: run `kin")
        realm.get_ticket()
        assert "bouchet tunnel" in person.stage() and person.ssh_logs_in()
        assert person.log_in().startswith(f"up: {USER}")
        assert person.staged() == {"resolved.json", "tickets.json", "krb5cc", "krb5.conf"}
        assert all(path.stat().st_mode & 0o077 == 0 for path in stack.ssh_dir.iterdir())
        # without the option ssh does not, and neither does the gateway
        person.config.write_text(
            person.config.read_text().replace("GSSAPIAuthentication yes", "GSSAPIAuthentication no")
        )
        person.stage()
        assert not person.ssh_logs_in() and person.log_in().startswith("refused: ")
        assert person.staged() == {"resolved.json"}


def test_copied_tickets_are_renewed_by_the_commands(
    realm: Realm, gssapi: Path, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with person_of(realm, stack, gssapi, tmp_path) as person:
        realm.get_ticket()
        person.stage()
        assert not renew_tickets(realm.environ, stack.root)
        person.expire(realm.folder / "tickets")
        assert renew_tickets(realm.environ, stack.root)
        printed = person.log_in()
        assert printed.startswith(
            "refused: the Kerberos ticket has expired: run `kinit`, then `bouchet tunnel --connect`"
        )
        # kinit in another terminal, whose tickets are in another file
        realm.get_ticket("-c", f"FILE:{realm.folder}/other")
        assert renew_tickets({"KRB5CCNAME": f"FILE:{realm.folder}/other"}, stack.root)
        assert person.log_in().startswith(f"up: {USER}")
        copy = stack.ssh_dir / "krb5cc"
        assert copy.stat().st_mode & 0o777 == 0o600 and not renew_tickets(realm.environ, stack.root)
        # `make up` without tickets leaves none, and a later kinit is enough
        realm.run("kdestroy")
        person.stage()
        assert not copy.exists()
        realm.get_ticket()
        assert renew_tickets(realm.environ, stack.root) and person.log_in().startswith(f"up: {USER}")


def test_a_folder_of_tickets_is_read_at_each_login(
    realm: Realm, gssapi: Path, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tickets"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{folder}/cc")
    realm = Realm(realm.folder, dict(os.environ))
    with person_of(realm, stack, gssapi, tmp_path, f"ListenAddress {NODE}:22\n{ONLY_TICKETS}") as person:
        # `make up` before the first kinit
        person.stage()
        assert ticket_variables(stack) == {"BOUCHET_TICKETS_DIR": str(folder)}
        assert person.log_in().startswith("refused: there is no Kerberos ticket")
        realm.get_ticket()
        assert person.log_in().startswith(f"up: {USER}") and "krb5cc" not in person.staged()
        # the second hop, to a compute node
        assert re.fullmatch(rf"up: {USER} \S+ \d+ {NODE} 22", person.log_in(NODE))
        person.expire(folder / "cc")
        assert person.log_in().startswith("refused: the Kerberos ticket has expired")
        realm.get_ticket()
        assert person.log_in().startswith(f"up: {USER}")


def test_a_prompt_that_an_expired_ticket_leads_to_names_it(
    realm: Realm, gssapi: Path, stack: Stack, tmp_path: Path
) -> None:
    lines = "PubkeyAuthentication no\nKbdInteractiveAuthentication no\nGSSAPIAuthentication yes\n"
    with person_of(realm, stack, gssapi, tmp_path, lines, pam="auth required pam_unix.so\n") as person:
        realm.get_ticket()
        person.stage()
        person.expire(stack.ssh_dir / "krb5cc")
        assert person.log_in().startswith("asked: the Kerberos ticket has expired: run `kinit`")


@pytest.mark.parametrize(
    ("mode", "files", "mounted"),
    [
        (0o700, {}, True),
        (0o700, {"cc": b"\x05\x04", "primary": b"cc\n"}, True),
        (0o750, {"cc": b"\x05\x04"}, False),
        (0o700, {"cc": b"\x05\x04", "id_ed25519": b"-----BEGIN"}, False),
        (0o700, {f"c{number}": b"\x05" for number in range(65)}, False),
    ],
)
def test_only_a_persons_own_folder_of_tickets_is_mounted(
    tmp_path: Path, mode: int, files: dict[str, bytes], mounted: bool
) -> None:
    folder = tmp_path / "tickets"
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    folder.chmod(mode)
    assert holds_only_tickets(folder, os.getuid()) is mounted
    assert not holds_only_tickets(folder, os.getuid() + 1)
    (folder / "agent").symlink_to("/etc/passwd")
    assert not holds_only_tickets(folder, os.getuid())


def test_read_config_has_the_lines_of_included_files(tmp_path: Path) -> None:
    folder = tmp_path / "krb5.conf.d"
    folder.mkdir()
    for name in ("b", "a.conf", ".hidden.conf", "c.rpmnew"):
        (folder / name).write_text(f"# of {name}\n")
    (tmp_path / "more").write_text(f"include {tmp_path}/krb5.conf\n# of more\n")
    (tmp_path / "krb5.conf").write_text(f"includedir {folder}\ninclude /none\n[libdefaults]\n")
    assert "".join(read_config(tmp_path / "krb5.conf")) == "# of a.conf\n# of b\n[libdefaults]\n"
    # files that include each other end
    (tmp_path / "krb5.conf").write_text(f"include {tmp_path}/more\n")
    assert "# of more\n" in "".join(read_config(tmp_path / "krb5.conf"))


def test_tickets_that_no_container_can_read_are_named(
    tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    klist = tmp_path / "klist"
    klist.write_text("#!/bin/sh\necho 'Ticket cache: KCM:1000'\necho 'Default principal: bob@LAB.TEST'\n")
    klist.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "config").write_text("Host bouchet\n HostName l.example.org\n GSSAPIAuthentication yes\n")
    printed = io.StringIO()
    with Progress(printed) as progress:
        stage_login(stack, SETTINGS, progress, tmp_path / "config")
    assert "KCM:1000" in printed.getvalue() and "KRB5CCNAME=FILE:" in printed.getvalue()
    assert [path.name for path in stack.ssh_dir.iterdir()] == ["resolved.json"]


def test_parse_klist_names_the_cache_with_tickets_or_without() -> None:
    assert parse_klist("Ticket cache: DIR::/run/t/tkt\nDefault principal: bob@LAB.TEST\n", "") == "DIR::/run/t/tkt"
    # of Heimdal
    assert parse_klist("Credentials cache: FILE:/tmp/a b\n", "") == "FILE:/tmp/a b"
    none = "klist: No credentials cache found (filename: /tmp/krb5cc_1000)\n"
    assert parse_klist("", none) == "/tmp/krb5cc_1000"
    assert parse_klist("", "klist: Credentials cache keyring 'persistent:0:0' not found\n") == ""
