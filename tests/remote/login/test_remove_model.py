"""Removing a model's weights: every folder of it, and nothing of others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS

MODEL = "org/name"


def remove(models: Path, model: str = MODEL) -> subprocess.CompletedProcess[str]:
    argv = [OLDEST, str(SCRIPTS / "remove_model.py"), str(models), model]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def write(path: Path, content: str = "12345") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_all_folders_of_the_model_are_removed(tmp_path: Path) -> None:
    whole = write(tmp_path / "org" / "name" / "weights")
    older = tmp_path / "org" / ".name.abcdef01.1763800000"
    older.mkdir()
    os.link(whole, older / "weights")
    write(tmp_path / "org" / ".name.partial" / ".bouchet" / "x.part")
    blob = write(tmp_path / "hub" / "models--org--name" / "blobs" / "abc", "7777777")
    (blob.parent.parent / "snapshots").mkdir()
    (blob.parent.parent / "snapshots" / "link").symlink_to(blob)
    kept = [write(tmp_path / "org" / "name2" / "weights"), write(tmp_path / "org" / ".name2.partial" / "x")]
    done = remove(tmp_path)
    assert done.returncode == 0, done.stderr
    freed = json.loads(done.stdout)
    assert len(freed["folders"]) == 4 and freed["bytes"] >= 5 + 5 + 7
    assert sorted(path.name for path in (tmp_path / "org").iterdir()) == [".name2.partial", "name2"]
    assert all(path.exists() for path in kept) and list((tmp_path / "hub").iterdir()) == []


@pytest.mark.parametrize("model", ["../kept", "org/../../kept", "..", ".", "", "org/", "/kept", "org/name\n"])
def test_what_is_no_id_of_a_model_removes_nothing(tmp_path: Path, model: str) -> None:
    kept = [write(tmp_path / "kept" / "thesis"), write(tmp_path / "models" / "org" / "name" / "weights")]
    done = remove(tmp_path / "models", model)
    assert done.returncode == 1 and "is not the id of a model" in done.stderr
    assert all(path.exists() for path in kept)


def test_empty_folder_of_the_organisation_goes_too(tmp_path: Path) -> None:
    write(tmp_path / "org" / "name" / "weights")
    assert remove(tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_link_to_other_weights_is_removed_as_a_link(tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere" / "weights")
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").symlink_to(target.parent)
    assert remove(tmp_path).returncode == 0
    assert target.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_folder_of_another_user_is_left_alone(tmp_path: Path) -> None:
    weights = write(tmp_path / "org" / "name" / "weights")
    os.chown(weights.parent, 12345, 12345)
    done = remove(tmp_path)
    assert done.returncode == 1 and "belongs to another user" in done.stderr and weights.exists()
