"""An image job on a node: what it reports and refuses, and that it leaves no partial image."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS

# in place of build.sh: prints progress as a build does, then runs the test's command
BUILD = """#!/bin/bash
set -eu
echo 'bouchet: step base'
echo 'bouchet: step packages'
echo 'bouchet: packages 3 of 9'
mkdir "$BOUCHET_WORK"
{end}
"""


def run_job(tmp_path: Path, action: str = "build", end: str = "", **spec: Any) -> subprocess.CompletedProcess[str]:
    """Run an image job under the oldest Python found."""
    folder, images = tmp_path / "job", tmp_path / "images"
    folder.mkdir(exist_ok=True)
    images.mkdir(exist_ok=True)
    document = {
        "version": 1,
        "job_name": "bouchet-image",
        "action": action,
        "pin": "tiny",
        "root": str(tmp_path / "root"),
        "models_dir": str(tmp_path),
        "images_dir": str(images),
        "image": str(images / "tiny.sif"),
        "image_sha256": None,
        "source": None,
        "oci": None,
        "build_dir": str(tmp_path),
        "build_gib": 0,
        "image_gib": 0,
        "rebuild": False,
        "in_use": [],
        "signing_key": None,
        "apptainer": "apptainer",
        **spec,
    }
    (folder / "spec.json").write_text(json.dumps(document))
    (folder / "build.sh").write_text(BUILD.replace("{end}", end))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [OLDEST, str(SCRIPTS / "image_job.py"), "run", str(folder), str(SCRIPTS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def progress(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "job" / "progress.json").read_text()))


def make_image(tmp_path: Path, content: bytes = b"SIF") -> str:
    """Write an image with its records; its sha256."""
    folder = tmp_path / "images"
    folder.mkdir()
    digest = hashlib.sha256(content).hexdigest()
    (folder / "tiny.sif").write_bytes(content)
    (folder / "tiny.sif.sha256").write_text(f"{digest}  tiny.sif\n")
    (folder / "tiny.manifest.json").write_text(json.dumps({"sif_sha256": digest}))
    return digest


def test_build_reports_hash_and_size(tmp_path: Path) -> None:
    make_image(tmp_path)
    done = run_job(tmp_path, end='rmdir "$BOUCHET_WORK"')
    assert done.returncode == 0, done.stderr
    report = progress(tmp_path)
    assert report["state"] == "done" and report["sentence"].startswith("built in")
    assert (report["bytes"], report["sha256"]) == (3, hashlib.sha256(b"SIF").hexdigest())


def test_build_keeps_all_steps_however_short(tmp_path: Path) -> None:
    make_image(tmp_path)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "progress.json").write_text(json.dumps({"steps": [{"name": "of an earlier run", "at": 1}]}))
    run_job(tmp_path, end='rmdir "$BOUCHET_WORK"; echo "bouchet: step hash"')
    steps = progress(tmp_path)["steps"]
    names = ["starting", "unpacking the base image", "installing Python packages", "hashing the image"]
    assert [step["name"] for step in steps] == names and progress(tmp_path)["state"] == "done"
    assert sorted(steps, key=lambda step: step["at"]) == steps and steps[0]["at"] > 1


def test_build_reports_other_hash_in_site_file(tmp_path: Path) -> None:
    make_image(tmp_path)
    assert run_job(tmp_path, image_sha256="f" * 64).returncode == 0
    assert "the site file has another sha256" in progress(tmp_path)["sentence"]


def test_failed_build_keeps_older_image(tmp_path: Path) -> None:
    make_image(tmp_path)
    done = run_job(tmp_path, end="echo 'ERROR: No matching distribution found for vllm==9' >&2; kill -9 $$")
    assert done.returncode == 1 and "vllm==9" in done.stderr
    assert (progress(tmp_path)["state"], progress(tmp_path)["kind"]) == ("failed", "missing_wheel")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "tiny.manifest.json",
        "tiny.sif",
        "tiny.sif.sha256",
    ]


@pytest.mark.parametrize("end", ["kill -9 $$", 'touch "$1/stop"; sleep 60'], ids=["killed", "cancelled"])
def test_ended_build_keeps_folder_of_other_build(tmp_path: Path, end: str) -> None:
    other = tmp_path / "images" / ".tiny.zzzzzz"
    other.mkdir(parents=True)
    assert run_job(tmp_path, end=end).returncode == 1
    assert [path.name for path in (tmp_path / "images").iterdir()] == [other.name]


def test_build_dir_too_small_is_refused(tmp_path: Path) -> None:
    done = run_job(tmp_path, build_gib=10**6)
    assert done.returncode == 1
    assert "needs about 1000000 GiB while it is built" in progress(tmp_path)["sentence"]
    assert str(tmp_path) in progress(tmp_path)["sentence"] and "build_dir" in progress(tmp_path)["sentence"]
    assert "bouchet: step" not in done.stdout


def test_incomplete_staged_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    assert run_job(tmp_path, source=str(tmp_path)).returncode == 1
    assert f"missing in {tmp_path}: base.tar" in progress(tmp_path)["sentence"]


def test_staged_folder_of_site_is_used_if_it_exists(tmp_path: Path) -> None:
    make_image(tmp_path)
    end = 'rmdir "$BOUCHET_WORK"; echo "from ${3:-the network}"'
    assert "from the network" in run_job(tmp_path, end=end, staged=str(tmp_path / "nothing")).stdout
    staged = tmp_path / "staged"
    (staged / "wheels").mkdir(parents=True)
    (staged / "base.tar").touch()
    assert f"from {staged}" in run_job(tmp_path, end=end, staged=str(staged)).stdout


def test_verify_hashes_again_and_notes_hash(tmp_path: Path) -> None:
    digest = make_image(tmp_path)
    assert run_job(tmp_path, "verify").returncode == 0
    assert digest[:12] in progress(tmp_path)["sentence"]
    (note,) = (tmp_path / "root" / "cache" / "hashes").iterdir()
    assert note.read_text().strip() == digest and stat.S_IMODE(note.stat().st_mode) == 0o600


@pytest.mark.parametrize("record", ["tiny.sif", "tiny.sif.sha256", "tiny.manifest.json", "site"])
def test_verify_reports_record_that_differs(tmp_path: Path, record: str) -> None:
    make_image(tmp_path)
    path = tmp_path / "images" / record
    spec = {"image_sha256": "f" * 64} if record == "site" else {}
    if record == "tiny.sif":
        path.write_bytes(b"SIx")
    elif record != "site":
        path.write_text(path.read_text().replace(hashlib.sha256(b"SIF").hexdigest(), "f" * 64))
    assert run_job(tmp_path, "verify", **spec).returncode == 1
    assert "has changed" in progress(tmp_path)["sentence"]
