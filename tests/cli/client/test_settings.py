"""Settings from the environment and `.env`."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_cli.client.errors import UnreachableError
from bouchet_cli.client.settings import read_settings


def test_settings_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nexport BOUCHET_API_KEY=k\n")
    with pytest.raises(UnreachableError, match=r"\.env:2: has `export`"):
        read_settings({}, tmp_path)


def test_settings_come_from_the_file_without_showing_the_key(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BOUCHET_API_KEY=from-file\nBOUCHET_ADMIN_KEY=admin-from-file\nAPI_PORT=5001\n")
    read = read_settings({}, tmp_path)
    assert (read.api_url, read.admin_key) == ("http://127.0.0.1:5001", "admin-from-file")
    assert (read.proxy_url, read.key) == ("http://127.0.0.1:4000", "from-file")
    assert "from-file" not in repr(read)


def test_environment_takes_precedence_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BOUCHET_API_KEY=from-file\nBOUCHET_ADMIN_KEY=admin-from-file\nAPI_PORT=5001\n")
    read = read_settings({"BOUCHET_API_KEY": "k", "BOUCHET_ADMIN_KEY": "a", "BOUCHET_API_URL": "http://x"}, tmp_path)
    assert (read.key, read.admin_key, read.api_url) == ("k", "a", "http://x")


def test_env_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("BOUCHET_API_KEY=other\nBOUCHET_ADMIN_KEY=o\n")
    assert read_settings({"BOUCHET_ENV_FILE": "other"}, tmp_path).key == "other"
    assert read_settings({"BOUCHET_ENV_FILE": str(tmp_path / "other")}, Path("/nowhere")).key == "other"


def test_settings_without_key_suggest_make_up(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=5001\n")
    for project in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UnreachableError, match="make up"):
            read_settings({}, project)


def test_settings_of_an_older_version_suggest_make_up(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BOUCHET_API_KEY=from-file\n")
    with pytest.raises(UnreachableError, match="has no BOUCHET_ADMIN_KEY; `make up`"):
        read_settings({}, tmp_path)


def test_key_of_the_environment_differs_from_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BOUCHET_API_KEY=owner\nBOUCHET_ADMIN_KEY=admin\n")
    assert not read_settings({}, tmp_path).own_key
    assert not read_settings({"BOUCHET_API_KEY": "owner"}, tmp_path).own_key
    assert read_settings({"BOUCHET_API_KEY": "of a lab mate"}, tmp_path).own_key
