"""Where the person's ~/.ssh lies in the container."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_gateway.ssh import config_files as sshdir


@pytest.mark.parametrize(
    ("written", "here"),
    [
        ("~/.ssh/known_hosts", "known_hosts"),
        ("/home/me/.ssh/known_hosts", "known_hosts"),
        ("/Users/me/.ssh/keys/bouchet", "keys/bouchet"),
    ],
)
def test_paths_of_the_config_are_found_here(written: str, here: str, tmp_path: Path) -> None:
    assert sshdir.mounted_path(written, tmp_path) == tmp_path / here


def test_other_paths_stay(tmp_path: Path) -> None:
    assert sshdir.mounted_path("/etc/ssh/ssh_known_hosts", tmp_path) == Path("/etc/ssh/ssh_known_hosts")


def test_only_files_that_exist_count(tmp_path: Path) -> None:
    assert sshdir.config_files(tmp_path) == []
    assert sshdir.known_hosts_files([], tmp_path) == []
    assert sshdir.key_files([], tmp_path) == []
    for name in ("config", "known_hosts", "id_rsa", "id_rsa.pub", "work.pub"):
        (tmp_path / name).touch()
    assert sshdir.config_files(tmp_path) == [str(tmp_path / "config")]
    assert sshdir.known_hosts_files([], tmp_path) == [tmp_path / "known_hosts"]
    assert sshdir.key_files([], tmp_path) == [str(tmp_path / "id_rsa")]
    assert sshdir.key_files(["~/.ssh/work"], tmp_path) == []
    assert sshdir.key_files(["~/.ssh/work.pub"], tmp_path) == []
    assert sshdir.identity_files(["~/.ssh/work", "~/.ssh/none"], tmp_path) == [str(tmp_path / "work.pub")]
