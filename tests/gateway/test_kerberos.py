"""Logins with a Kerberos ticket: a real MIT KDC, OpenSSH's sshd with GSSAPI alone, and ssh beside the gateway."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from setup.docker.stack import Stack
from setup.files.env_file import EnvSettings
from setup.files.kerberos import read_config
from setup.files.ssh_config import stage_login
from setup.progress import Progress
from tests.conftest import free_port
from tests.gateway.login_node import LoginNode
from tests.gateway.running import USER
from tests.gateway.ssh.test_openssh import listens, openssh
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

SETTINGS = EnvSettings({"BOUCHET_UID": str(os.getuid()), "BOUCHET_GID": str(os.getgid()), "BOUCHET_HOST": "bouchet"})
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
import asyncio, sys
from pathlib import Path
from bouchet_core.errors import BouchetError
from bouchet_gateway.settings import SshSettings
from bouchet_gateway.ssh.connect import Connector
from bouchet_gateway.ssh.host_keys import TrustedHosts
from bouchet_gateway.ssh.prompts import PromptBroker

async def main():
    folder = Path(sys.argv[1])
    settings = SshSettings(hosts=("bouchet",), ssh_dir=folder, data_dir=folder.parent / "data")
    try:
        login = await Connector(settings, PromptBroker(1.0), TrustedHosts(settings.trusted_hosts)).connect()
    except BouchetError as exc:
        print("refused:", exc)
        return
    done = await login.connection.run("echo $USER")
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
    for query in (f"addprinc -pw {PASSWORD} {USER}", "addprinc -randkey host/127.0.0.1"):
        realm.run("kadmin.local", "-q", query)
    realm.run("kadmin.local", "-q", f"ktadd -k {folder}/keytab host/127.0.0.1")
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


def test_login_with_a_ticket_is_as_sshs(realm: Realm, gssapi: Path, stack: Stack, tmp_path: Path) -> None:
    with openssh(LoginNode(tmp_path), tmp_path / "sshd", ONLY_TICKETS) as node:
        config = tmp_path / "config"
        config.write_text(
            f"Host bouchet\n HostName 127.0.0.1\n Port {node.port}\n User {USER}\n GSSAPIAuthentication yes\n"
            f" UserKnownHostsFile {node.ssh_dir}/known_hosts\n"
        )

        def log_in() -> str:
            with Progress(io.StringIO()) as progress:
                stage_login(stack, SETTINGS, progress, config)
            return gateway_login(stack, gssapi)

        def ssh_logs_in() -> bool:
            argv = ["ssh", "-T", "-F", str(config), "-o", "BatchMode=yes", "bouchet", "true"]
            return subprocess.run(argv, env=realm.environ, capture_output=True, timeout=120).returncode == 0

        assert not ssh_logs_in() and log_in().startswith("refused: ")
        assert sorted(path.name for path in stack.ssh_dir.iterdir()) == ["resolved.json"]
        realm.get_ticket()
        assert ssh_logs_in()
        assert log_in() == f"up: {USER}"
        assert {path.name for path in stack.ssh_dir.iterdir()} == {"resolved.json", "krb5cc", "krb5.conf"}
        assert all(path.stat().st_mode & 0o077 == 0 for path in stack.ssh_dir.iterdir())
        # without the option ssh does not, and neither does the gateway
        config.write_text(config.read_text().replace("GSSAPIAuthentication yes", "GSSAPIAuthentication no"))
        assert not ssh_logs_in() and log_in().startswith("refused: ")


def test_expired_ticket_is_a_sentence(realm: Realm, gssapi: Path, stack: Stack, tmp_path: Path) -> None:
    with openssh(LoginNode(tmp_path), tmp_path / "sshd", ONLY_TICKETS) as node:
        config = tmp_path / "config"
        config.write_text(
            f"Host bouchet\n HostName 127.0.0.1\n Port {node.port}\n User {USER}\n GSSAPIAuthentication yes\n"
            f" UserKnownHostsFile {node.ssh_dir}/known_hosts\n"
        )
        realm.get_ticket()
        with Progress(io.StringIO()) as progress:
            stage_login(stack, SETTINGS, progress, config)
        cache = stack.ssh_dir / "krb5cc"
        realm.get_ticket("-l", "1s", "-c", f"FILE:{cache}")
        valid = ["klist", "-s", "-c", f"FILE:{cache}"]
        wait_for(lambda: subprocess.run(valid, env=realm.environ, check=False).returncode, 60)
        printed = gateway_login(stack, gssapi)
        assert printed.startswith("refused: the Kerberos ticket is not valid") and "`kinit`, then `make up`" in printed


def gateway_login(stack: Stack, packages: Path) -> str:
    """Return what comes of a login of the gateway's, in a process that has the package."""
    paths = os.pathsep.join([*sys.path, str(packages)])
    environ = {**os.environ, "PYTHONPATH": paths, "KRB5_CONFIG": str(stack.ssh_dir / "krb5.conf")}
    environ.pop("KRB5CCNAME")
    argv = [sys.executable, "-c", LOGIN, str(stack.ssh_dir)]
    done = subprocess.run(argv, env=environ, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
    assert "KCM:1000" in printed.getvalue() and "kinit -c FILE:" in printed.getvalue()
    assert [path.name for path in stack.ssh_dir.iterdir()] == ["resolved.json"]
