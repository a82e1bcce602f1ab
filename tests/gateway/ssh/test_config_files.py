"""Paths of the user's ~/.ssh in the container, and the options that its config sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_gateway.settings import SshSettings
from bouchet_gateway.ssh import config_files
from bouchet_gateway.ssh.config_files import connection_options


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("~/.ssh/known_hosts", "known_hosts"),
        ("/home/me/.ssh/known_hosts", "known_hosts"),
        ("/Users/me/.ssh/keys/bouchet", "keys/bouchet"),
    ],
)
def test_mounted_path_of_ssh_folder(written: str, expected: str, tmp_path: Path) -> None:
    assert config_files.mounted_path(written, tmp_path) == tmp_path / expected


def test_mounted_path_elsewhere_is_unchanged(tmp_path: Path) -> None:
    assert config_files.mounted_path("/etc/ssh/ssh_known_hosts", tmp_path) == Path("/etc/ssh/ssh_known_hosts")


def test_files_that_exist_are_returned(tmp_path: Path) -> None:
    assert config_files.config_files(tmp_path) == []
    assert config_files.known_hosts_files([], tmp_path) == []
    assert config_files.key_files([], tmp_path) == []
    for name in ("config", "known_hosts", "id_rsa", "id_rsa.pub", "work.pub"):
        (tmp_path / name).touch()
    assert config_files.config_files(tmp_path) == [str(tmp_path / "config")]
    assert config_files.known_hosts_files([], tmp_path) == [tmp_path / "known_hosts"]
    assert config_files.key_files([], tmp_path) == [str(tmp_path / "id_rsa")]
    assert config_files.key_files(["~/.ssh/work"], tmp_path) == []
    assert config_files.key_files(["~/.ssh/work.pub"], tmp_path) == []
    assert config_files.identity_files(["~/.ssh/work", "~/.ssh/none"], tmp_path) == [str(tmp_path / "work.pub")]


@pytest.mark.parametrize(
    ("config", "user", "port", "interval_s"),
    [
        ("", "given", 2222, 2.0),
        ("Host cluster\n  User own\n  Port 22\n  ServerAliveInterval 60\n", None, None, 2.0),
        ("Host cluster\n  ServerAliveInterval 1\n", "given", 2222, 1),
    ],
)
def test_connection_options_prefer_config(
    tmp_path: Path, config: str, user: str | None, port: int | None, interval_s: float
) -> None:
    (tmp_path / "config").write_text(config)
    _, options = connection_options(SshSettings(ssh_dir=tmp_path, data_dir=tmp_path), "cluster", "given", 2222)
    assert (options.get("username"), options.get("port")) == (user, port)
    assert options["keepalive_interval"] == interval_s
