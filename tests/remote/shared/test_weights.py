"""The digest of a model's files: equal for equal files, and labelled with the source of its hashes."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from weights import describe_weights


def write_safetensors(path: Path, tensors: dict[str, object], content: bytes = b"\0" * 8) -> None:
    header = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "Org" / "Name"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"a": 1}')
    (model / "tokenizer.json").write_text("[]")
    write_safetensors(model / "model.safetensors", {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    return model


def described(folder: Path) -> dict[str, Any]:
    found = describe_weights(str(folder))
    assert found is not None
    return dict(found)


def write_manifest(folder: Path) -> None:
    files = [
        {"path": path.name, "size": path.stat().st_size, "hash": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
    ]
    (folder / "REVISION").write_text("c0ffee\n")
    (folder / ".bouchet").mkdir()
    (folder / ".bouchet" / "manifest.json").write_text(json.dumps({"files": files}))


def test_digest_without_manifest_covers_headers_and_small_files(folder: Path) -> None:
    first = described(folder)
    assert (first["how"], first["files"], first["folder"]) == ("headers", 3, str(folder))
    assert described(folder) == first
    (folder / "REVISION").write_text("c0ffee")
    (folder / ".lock").write_text("")
    assert described(folder) == first, "our own files are not part of the model"
    (folder / "tokenizer.json").write_text("{}")
    second = described(folder)
    assert second["digest"] != first["digest"]
    write_safetensors(folder / "model.safetensors", {"w": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}})
    assert described(folder)["digest"] != second["digest"]


def test_manifest_is_used_until_a_file_is_written_to(folder: Path) -> None:
    write_manifest(folder)
    first = described(folder)
    assert (first["how"], first["files"]) == ("manifest", 3)
    later = time.time() + 3600
    os.utime(folder / "model.safetensors", (later, later))
    assert described(folder)["how"] == "headers"


@pytest.mark.parametrize(
    "change", [lambda f: (f / "config.json").write_text("{}"), lambda f: (f / "config.json").unlink()]
)
def test_manifest_is_ignored_when_size_differs(folder: Path, change: Callable[[Path], object]) -> None:
    write_manifest(folder)
    change(folder)
    assert described(folder)["how"] == "headers"


def test_hub_cache_gives_digest_of_manifest(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (blobs / digest).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blobs / digest)
    found = described(snapshot)
    assert (found["how"], found["files"]) == ("hub", 3)
    write_manifest(folder)
    assert described(folder)["digest"] == found["digest"], "equal files have one digest, wherever they came from"
    (snapshot / "README.md").write_text("own")
    assert described(snapshot)["how"] == "headers"


def test_unreadable_file_gives_no_digest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    assert describe_weights(str(tmp_path)) is None
