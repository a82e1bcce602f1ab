"""What the look at the models' folder finds: whole, half fetched, purged, copied by hand, and in a hub cache."""

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


def look(root: Path) -> dict[str, Any]:
    words = [OLDEST, str(SCRIPTS / "list_models.py"), str(root), str(root / "models")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def write(path: Path, content: bytes | str | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def entry(path: str, size: int) -> dict[str, Any]:
    return {"path": path, "size": size, "hash": f"hash-of-{path}", "kind": "sha256"}


def test_a_folder_that_is_not_there_holds_nothing(root: Path) -> None:
    assert look(root) == {"models": {}, "free_bytes": None}


def test_every_way_a_model_may_lie(root: Path) -> None:
    models = root / "models"
    files = [entry("config.json", 2), entry("w.safetensors", 10)]
    for name in ("whole", "purged"):
        write(models / "Org" / name / "config.json", "{}")
        write(models / "Org" / name / ".bouchet" / "manifest.json", {"revision": COMMIT, "files": files})
    write(models / "Org/whole/w.safetensors", b"0123456789")
    write(models / "Org/by-hand/config.json", "{}")
    write(models / "Org/by-hand/w.safetensors", b"0123")
    coming = models / "Org" / ".coming.partial"
    write(coming / ".bouchet" / "plan.json", {"revision": COMMIT, "files": files})
    write(coming / "config.json", "{}")
    write(coming / ".bouchet" / "hash-of-w.safetensors.part", b"012")
    write(models / "Org/.whole.11111111.170000/config.json", "{}")
    write(models / "Org/empty/README", "")
    cached = models / "hub" / "models--Org--cached"
    write(cached / "refs" / "main", COMMIT)
    write(cached / "snapshots" / COMMIT / "config.json", "{}")
    write(root / "cache" / "used" / "Org--whole", "")
    os.utime(root / "cache" / "used" / "Org--whole", (1763800000, 1763800000))

    seen = look(root)
    rows = {name: (row["state"], row["bytes"], row["total_bytes"]) for name, row in seen["models"].items()}
    assert rows == {
        "Org/whole": ("ready", 12, 12),
        "Org/purged": ("partial", 2, 12),
        "Org/by-hand": ("ready", 6, 6),
        "Org/coming": ("partial", 5, 12),
        "Org/cached": ("ready", 2, 2),
    }
    assert seen["models"]["Org/whole"]["last_used"] == 1763800000
    assert seen["models"]["Org/coming"]["last_used"] is None
    assert seen["models"]["Org/cached"]["revision"] == COMMIT and seen["free_bytes"] > 0
