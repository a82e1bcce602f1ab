"""The guided setup's logins: the real ssh, OpenSSH's own sshd, and login shells whose start-up files print or end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncssh
import pytest
from bouchet_cli.client.errors import CommandError
from bouchet_cli.guide.directory import directory_problem, directory_script
from bouchet_cli.site_probe.parse import lines_of
from bouchet_cli.site_probe.remote import LoginNode, close_connection
from bouchet_cli.site_probe.scripts import FACTS

from tests.gateway.login_node import LoginNode as ClusterLogin
from tests.gateway.running import USER
from tests.gateway.ssh.test_openssh import KEYS, START_UP, openssh

pytestmark = pytest.mark.slow

# the last line of start-up files that do not look whether the shell has a terminal; after `exec sh` the script runs
ENDS = ("exit 0", "exit 3", "exec cat", "exec tcsh -f")


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterLogin:
    """Return keys and a home on the cluster; no server yet."""
    return ClusterLogin(tmp_path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder with a short name, for the connection's socket."""
    with TemporaryDirectory(prefix="bouchet-", dir="/tmp") as folder:
        yield Path(folder)


def login(cluster: ClusterLogin, folder: Path) -> LoginNode:
    """Return the login node, behind the ssh configuration of a person."""
    (cluster.ssh_dir / "id_ed25519").chmod(0o600)
    config = folder / "config"
    config.write_text(
        f"Host mycluster\n HostName 127.0.0.1\n Port {cluster.port}\n User {USER}\n BatchMode yes\n"
        f" IdentityFile {cluster.ssh_dir}/id_ed25519\n UserKnownHostsFile {cluster.ssh_dir}/known_hosts\n"
    )
    ssh = folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config}" "$@"\n')
    ssh.chmod(0o755)
    return LoginNode("mycluster", folder, {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})


def start_up(cluster: ClusterLogin, shell: str, text: str) -> None:
    """Write the start-up file of the account's shell."""
    path = cluster.home / START_UP[shell]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.mark.parametrize("shell", START_UP)
def test_scripts_share_one_login_whatever_the_shell_prints(
    cluster: ClusterLogin, folder: Path, tmp_path: Path, shell: str
) -> None:
    start_up(cluster, shell, "echo 'Welcome to the cluster!'")
    project = cluster.home / "project_pi_x"
    project.mkdir()
    with openssh(cluster, tmp_path / "sshd", f"{KEYS}LogLevel VERBOSE\n", shell=shell):
        node = login(cluster, folder)
        facts = node.run(FACTS)
        assert str(project) in lines_of(facts, "directories") and not facts["user"].startswith("Welcome")
        assert directory_problem("~/project_pi_x/me", node.run(directory_script("~/project_pi_x/me"))) == ""
        assert "nothing above it" in directory_problem("/no-such/x", node.run(directory_script("/no-such/x")))
        close_connection(node)
        assert (tmp_path / "sshd" / "log").read_text().count("Accepted publickey") == 1
    assert list(project.iterdir()) == []


@pytest.mark.parametrize("end", ENDS)
def test_start_up_file_that_ends_the_shell_is_a_sentence(
    cluster: ClusterLogin, folder: Path, tmp_path: Path, end: str
) -> None:
    start_up(cluster, "bash", f"echo 'choose a project'\n{end}")
    with openssh(cluster, tmp_path / "sshd", KEYS):
        node = login(cluster, folder)
        with pytest.raises(CommandError, match="start-up file there may call `exit` or start another program"):
            node.run(FACTS)
        close_connection(node)


def test_login_that_fails_shows_what_ssh_says(cluster: ClusterLogin, folder: Path, tmp_path: Path) -> None:
    with openssh(cluster, tmp_path / "sshd", "AuthorizedKeysFile none\nPasswordAuthentication no\n"):
        node = login(cluster, folder)
        with pytest.raises(CommandError, match="Permission denied"):
            node.run("true")
        cluster.trust(asyncssh.generate_private_key("ssh-ed25519"))
        with pytest.raises(CommandError, match="Host key verification failed"):
            node.run("true")
    with pytest.raises(CommandError, match="Connection refused") as caught:
        node.run("true")
    assert "VPN" not in str(caught.value), "the network reaches it"
