"""Models on disk: complete, partly downloaded, purged, copied by hand, and in a hub cache."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS

COMMIT = "c" * 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "it's a $root"


def list_models(root: Path) -> dict[str, Any]:
    argv = [OLDEST, str(SCRIPTS / "list_models.py"), str(root), str(root / "models")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def write_file(path: Path, content: bytes | str | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def file_entry(path: str, size: int) -> dict[str, Any]:
    return {"path": path, "size": size, "hash": f"hash-of-{path}", "kind": "sha256"}


def test_missing_folder_has_no_models(root: Path) -> None:
    assert list_models(root) == {"models": {}, "free_bytes": None}


def test_models_are_listed_with_state_and_size(root: Path) -> None:
    models = root / "models"
    files = [file_entry("config.json", 2), file_entry("w.safetensors", 10)]
    for name in ("complete", "purged"):
        write_file(models / "Org" / name / "config.json", "{}")
        write_file(models / "Org" / name / ".bouchet" / "manifest.json", {"revision": COMMIT, "files": files})
    write_file(models / "Org/complete/w.safetensors", b"0123456789")
    write_file(models / "Org/by-hand/config.json", "{}")
    write_file(models / "Org/by-hand/w.safetensors", b"0123")
    partial = models / "Org" / ".partial.partial"
    write_file(partial / ".bouchet" / "plan.json", {"revision": COMMIT, "files": files})
    write_file(partial / "config.json", "{}")
    write_file(partial / ".bouchet" / "hash-of-w.safetensors.part", b"012")
    write_file(models / "Org/.complete.11111111.170000/config.json", "{}")
    write_file(models / "Org/empty/README", "")
    cached = models / "hub" / "models--Org--cached"
    write_file(cached / "refs" / "main", COMMIT)
    write_file(cached / "snapshots" / COMMIT / "config.json", "{}")
    write_file(root / "cache" / "used" / "Org--complete", "")
    os.utime(root / "cache" / "used" / "Org--complete", (1763800000, 1763800000))

    result = list_models(root)
    rows = {name: (row["state"], row["bytes"], row["total_bytes"]) for name, row in result["models"].items()}
    assert rows == {
        "Org/complete": ("ready", 12, 12),
        "Org/purged": ("partial", 2, 12),
        "Org/by-hand": ("ready", 6, 6),
        "Org/partial": ("partial", 5, 12),
        "Org/cached": ("ready", 2, 2),
    }
    assert result["models"]["Org/complete"]["last_used"] == 1763800000
    assert result["models"]["Org/partial"]["last_used"] is None
    assert result["models"]["Org/cached"]["revision"] == COMMIT and result["free_bytes"] > 0
