"""Settings of .env, set one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_cli.client.env_edit import read_values, set_values, with_value
from bouchet_cli.client.errors import CommandError

TEXT = "# The host.\n# BOUCHET_HOST=bouchet\n# A site.\nBOUCHET_SITE=x\nBOUCHET_API_KEY=secret\n"


def test_value_replaces_its_line_or_follows_its_example() -> None:
    assert with_value(TEXT, "BOUCHET_SITE", "y") == TEXT.replace("SITE=x", "SITE=y")
    assert "# BOUCHET_HOST=bouchet\nBOUCHET_HOST=h\n# A site." in with_value(TEXT, "BOUCHET_HOST", "h")
    assert with_value("A=1", "B", r"\1") == "A=1\nB=\\1\n"


def test_file_stays_private_and_keeps_other_settings(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(TEXT)
    path.chmod(0o600)
    set_values(path, {"BOUCHET_HOST": "h", "BOUCHET_SITE": "y"})
    set_values(path, {"BOUCHET_HOST": "other"})
    assert read_values(path) == {"BOUCHET_HOST": "other", "BOUCHET_SITE": "y", "BOUCHET_API_KEY": "secret"}
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]


def test_missing_and_broken_files(tmp_path: Path) -> None:
    assert read_values(tmp_path / "none") == {}
    with pytest.raises(CommandError, match="cannot write"):
        set_values(tmp_path / "none", {"A": "1"})
    (tmp_path / "broken").write_text("not a setting\n")
    with pytest.raises(CommandError, match="broken:1"):
        read_values(tmp_path / "broken")
