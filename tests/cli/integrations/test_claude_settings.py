"""The document that Claude Code gets with `--settings`, and its sessions on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bouchet_cli.integrations.claude_settings import (
    SECRET,
    claude_settings,
    latest_session,
    memory_file,
    sets_permission_mode,
)

from tests.cli.samples import deployment

VARIABLES = {"ANTHROPIC_BASE_URL": "http://p", SECRET: "k"}
SESSION = "1c5a8a2e-9d5e-4a57-9a34-8d3f0b8b1c11"


def test_settings_name_every_ready_model_once() -> None:
    served = [deployment("big"), deployment("small"), deployment("big")]
    found = claude_settings(VARIABLES, served, keeps_mode=False)
    rows = [row["model"] for row in found["modelPicker"]["options"]]
    assert rows == ["bouchet-big", "bouchet-small"] and found["modelPicker"]["replaceBuiltInOptions"] is True


def test_settings_leave_the_persons_permission_mode() -> None:
    assert claude_settings(VARIABLES, [], keeps_mode=False)["permissions"] == {"defaultMode": "default"}
    assert "permissions" not in claude_settings(VARIABLES, [], keeps_mode=True)


def test_settings_without_key_have_no_key() -> None:
    assert claude_settings(VARIABLES, [], keeps_mode=False)["env"][SECRET] == "k"
    assert "k" not in claude_settings(VARIABLES, [], keeps_mode=False, with_key=False)["env"].values()


@pytest.mark.parametrize("place", ["home", "config", "project", "local"])
def test_permission_mode_of_any_settings_file_counts(tmp_path: Path, place: str) -> None:
    home, work, config = tmp_path / "home", tmp_path / "work", tmp_path / "config"
    environment = {"HOME": str(home), **({"CLAUDE_CONFIG_DIR": str(config)} if place == "config" else {})}
    files = {
        "home": home / ".claude/settings.json",
        "config": config / "settings.json",
        "project": work / ".claude/settings.json",
        "local": work / ".claude/settings.local.json",
    }
    assert not sets_permission_mode(environment, work)
    files[place].parent.mkdir(parents=True)
    files[place].write_text(json.dumps({"permissions": {"defaultMode": "plan"}}))
    assert sets_permission_mode(environment, work)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"permissions": []}', '{"permissions": {"defaultMode": 1}}', "[" * 9999]
)
def test_unreadable_settings_name_no_mode(tmp_path: Path, text: str) -> None:
    file = tmp_path / ".claude/settings.json"
    file.parent.mkdir()
    file.write_text(text)
    assert not sets_permission_mode({"HOME": str(tmp_path)}, tmp_path)


def test_latest_session_is_the_one_written_last_in_that_folder(tmp_path: Path) -> None:
    work = Path("/data/a project")
    folder = tmp_path / ".claude/projects/-data-a-project"
    environment = {"HOME": str(tmp_path)}
    assert latest_session(environment, work, 0) is None
    folder.mkdir(parents=True)
    for name, changed_at in (("old", 100), (SESSION, 300), ("middle", 200)):
        (folder / f"{name}.jsonl").write_text("{}")
        os.utime(folder / f"{name}.jsonl", (changed_at, changed_at))
    assert latest_session(environment, work, 250) == SESSION
    assert latest_session(environment, work, 301) is None


def test_memory_file_is_read_once_by_its_path() -> None:
    path = memory_file({"a": 1})
    assert json.loads(Path(path).read_text()) == {"a": 1}
    os.close(int(path.rpartition("/")[2]))
