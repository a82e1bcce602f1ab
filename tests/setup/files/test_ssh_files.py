"""What the gateway sees of ~/.ssh: never a private key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from setup.docker.stack import Stack
from setup.files.container_files import localize, stage_ssh_files
from setup.files.env_file import EnvSettings

SETTINGS = EnvSettings({"BOUCHET_UID": "10001", "BOUCHET_GID": "10001"})
CONFIG = """\
Include config.d/* ~/.ssh/more
Host bouchet
  HostName bouchet.example.edu
  IdentityAgent ~/.1password/agent.sock
  IdentityFile ~/.ssh/id_ed25519
  ControlPath ~/.ssh/cm-%r
  ProxyJump jump
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home folder with keys."""
    ssh = tmp_path / "home" / ".ssh"
    (ssh / "config.d").mkdir(parents=True)
    for name, text in {
        "config": CONFIG,
        "known_hosts": "bouchet ssh-ed25519 AAAA\n",
        "id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "id_ed25519.pub": "ssh-ed25519 AAAA me\n",
        "config.d/jump": "Host jump\n  User me\n",
        "config.d/a-key-by-mistake": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "authorized_keys": "ssh-ed25519 BBBB\n",
    }.items():
        (ssh / name).write_text(text)
    return tmp_path / "home"


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Return a stack in an empty folder."""
    (tmp_path / ".secrets").mkdir(mode=0o700)
    return Stack(tmp_path, "bouchet", tmp_path / ".env", {})


def test_stage_ssh_files_copies_config_known_hosts_and_public_keys(home: Path, stack: Stack) -> None:
    stage_ssh_files(stack, SETTINGS, home)
    names = {str(path.relative_to(stack.ssh_dir)) for path in stack.ssh_dir.rglob("*") if path.is_file()}
    assert names == {"config", "known_hosts", "id_ed25519.pub", "config.d/jump"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in stack.ssh_dir.rglob("*") if path.is_file()} == {0o600}
    assert all("PRIVATE" not in path.read_text() for path in stack.ssh_dir.rglob("*") if path.is_file())


def test_stage_ssh_files_removes_files_gone_from_home(home: Path, stack: Stack) -> None:
    stage_ssh_files(stack, SETTINGS, home)
    (home / ".ssh" / "id_ed25519.pub").unlink()
    stage_ssh_files(stack, SETTINGS, home)
    assert not (stack.ssh_dir / "id_ed25519.pub").exists()


def test_stage_ssh_files_without_ssh_folder_is_empty(tmp_path: Path, stack: Stack) -> None:
    stage_ssh_files(stack, SETTINGS, tmp_path / "nohome")
    assert list(stack.ssh_dir.iterdir()) == []


def test_localize_rewrites_paths_for_container() -> None:
    text = localize(CONFIG, Path("/home/me/.ssh"))
    assert "Include /run/ssh/config.d/* /run/ssh/more" in text
    assert "IdentityFile /run/ssh/id_ed25519" in text
    assert "agent.sock" not in text and "ControlPath" not in text
    assert "ProxyJump jump" in text
