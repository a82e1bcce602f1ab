"""The digest of a model's files: the same for the same files, another for others, and honest about what it covers."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.remote.compute_node import load

weights = load("weights")


def safetensors(path: Path, tensors: dict[str, object], content: bytes = b"\0" * 8) -> None:
    head = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "Org" / "Name"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"a": 1}')
    (model / "tokenizer.json").write_text("[]")
    safetensors(model / "model.safetensors", {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    return model


def described(folder: Path) -> dict[str, Any]:
    found = weights.describe(str(folder))
    assert found is not None
    return dict(found)


def with_manifest(folder: Path) -> None:
    files = [
        {"path": path.name, "size": path.stat().st_size, "hash": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
    ]
    (folder / "REVISION").write_text("c0ffee\n")
    (folder / ".bouchet").mkdir()
    (folder / ".bouchet" / "manifest.json").write_text(json.dumps({"files": files}))


def test_without_a_download_of_ours_headers_and_small_files_count(folder: Path) -> None:
    first = described(folder)
    assert (first["how"], first["files"], first["folder"]) == ("headers", 3, str(folder))
    assert described(folder) == first
    (folder / "REVISION").write_text("c0ffee")
    (folder / ".lock").write_text("")
    assert described(folder) == first, "notes are no part of the model"
    (folder / "tokenizer.json").write_text("{}")
    second = described(folder)
    assert second["digest"] != first["digest"]
    safetensors(folder / "model.safetensors", {"w": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}})
    assert described(folder)["digest"] != second["digest"]


def test_the_downloads_hashes_hold_while_nothing_was_written_since(folder: Path) -> None:
    with_manifest(folder)
    first = described(folder)
    assert (first["how"], first["files"]) == ("manifest", 3)
    later = time.time() + 3600
    os.utime(folder / "model.safetensors", (later, later))
    assert described(folder)["how"] == "headers"


@pytest.mark.parametrize(
    "change", [lambda f: (f / "config.json").write_text("{}"), lambda f: (f / "config.json").unlink()]
)
def test_a_file_of_another_size_or_none_ends_their_word(folder: Path, change: Any) -> None:
    with_manifest(folder)
    change(folder)
    assert described(folder)["how"] == "headers"


def test_a_hub_cache_names_its_files_by_their_hashes(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (blobs / digest).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blobs / digest)
    found = described(snapshot)
    assert (found["how"], found["files"]) == ("hub", 3)
    with_manifest(folder)
    assert described(folder)["digest"] == found["digest"], "the same files by whatever way they came"
    (snapshot / "README.md").write_text("own")
    assert described(snapshot)["how"] == "headers"


def test_a_folder_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    assert weights.describe(str(tmp_path)) is None


def test_a_hub_cache_of_two_commits_serves_the_one_that_is_pinned(tmp_path: Path) -> None:
    find = load("model_folder").find
    repository = tmp_path / "models--Org--Name"
    for commit in ("old", "new"):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("new")
    assert find(str(tmp_path), "Org/Name")[1] == "new"
    assert find(str(tmp_path), "Org/Name", "old")[1] == "old"
    assert find(str(tmp_path), "Org/Name", "gone")[1] == "new"
