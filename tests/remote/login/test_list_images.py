"""Images on the cluster: listed with their records, removed together with them."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS, write_image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make a recorded image, one without records, and a folder of a killed build."""
    folder = tmp_path / "images"
    folder.mkdir()
    write_image(folder / "tiny.sif", b"SIF")
    (folder / "bare.sif").write_bytes(b"x")
    (folder / ".tiny.abcdef").mkdir()
    return folder


def run(command: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [OLDEST, str(SCRIPTS / "list_images.py"), command, str(folder), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_list_shows_recorded_hash_and_facts_of_own_manifest(images: Path) -> None:
    digest = (images / "tiny.sif.sha256").read_text().split()[0]
    manifest = {"sif_sha256": digest, "torch": "2.13.0"}
    (images / "tiny.manifest.json").write_text(json.dumps(manifest))
    rows = json.loads(run("list", images).stdout)["images"]
    assert {pin: row["sha256"] for pin, row in rows.items()} == {"bare": None, "tiny": digest}
    assert (rows["tiny"]["bytes"], rows["tiny"]["torch"]) == (3, "2.13.0")
    (images / "tiny.manifest.json").write_text(json.dumps({**manifest, "sif_sha256": "f" * 64}))
    assert json.loads(run("list", images).stdout)["images"]["tiny"]["torch"] is None


def test_list_of_missing_folder_is_empty(tmp_path: Path) -> None:
    assert json.loads(run("list", tmp_path / "nothing").stdout)["images"] == {}


def test_remove_deletes_image_with_records(images: Path) -> None:
    (images / "tiny.manifest.json").write_text("{}")
    assert run("remove", images, "tiny").stdout == "3\n"
    assert sorted(path.name for path in images.iterdir()) == [".tiny.abcdef", "bare.sif"]


def test_remove_during_build_is_refused(images: Path) -> None:
    with (images / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("remove", images, "tiny")
    assert done.returncode == 1 and "tiny is being built" in done.stderr
    assert (images / "tiny.sif").exists() and (images / ".tiny.lock").exists()


@pytest.mark.parametrize("name", ["none", "../images/bare", "bare.sif"])
def test_remove_of_other_name_is_refused(images: Path, name: str) -> None:
    assert run("remove", images, name).returncode == 1
