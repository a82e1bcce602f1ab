"""An image's job on a node: what its output means, what it refuses, and that it keeps nothing half-made."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from build_output import failure_in_words, progress_of

from tests.remote.compute_node import OLDEST, SCRIPTS

# stands for build.sh: says what a build says, then does what the test wants
BUILD = """#!/bin/bash
set -eu
echo 'bouchet: step base'
echo 'bouchet: step packages'
echo 'bouchet: packages 3 of 9'
mkdir "$2/.tiny.abcdef"
{end}
"""


def job(tmp_path: Path, action: str = "build", end: str = "", **spec: Any) -> subprocess.CompletedProcess[str]:
    """Runs an image's job under the oldest Python at hand."""
    folder, images = tmp_path / "job", tmp_path / "images"
    folder.mkdir(exist_ok=True)
    images.mkdir(exist_ok=True)
    words = {
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
    (folder / "spec.json").write_text(json.dumps(words))
    (folder / "build.sh").write_text(BUILD.replace("{end}", end))
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [OLDEST, str(SCRIPTS / "image_job.py"), "run", str(folder), str(SCRIPTS)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def said(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "job" / "progress.json").read_text()))


def image(tmp_path: Path, content: bytes = b"SIF") -> str:
    """An image with its records; its sha256."""
    folder = tmp_path / "images"
    folder.mkdir()
    digest = hashlib.sha256(content).hexdigest()
    (folder / "tiny.sif").write_bytes(content)
    (folder / "tiny.sif.sha256").write_text(f"{digest}  tiny.sif\n")
    (folder / "tiny.manifest.json").write_text(json.dumps({"sif_sha256": digest}))
    return digest


def test_the_steps_of_a_build_are_read_from_what_it_prints() -> None:
    known: dict[str, object] = {}
    told = []
    for line in (
        "bouchet: step base",
        "INFO:    Extracting OCI image...",
        "bouchet: step packages",
        "bouchet: packages 3 of 140",
        "bouchet: packages 140 of 140",
        "bouchet: step compile",
        "bouchet: packages 140 of 140",
        "bouchet: compile 7 of 76",
        "bouchet: step test",
        "INFO:    Creating SIF file...",
        "bouchet: step hash",
        "bouchet: step unheard-of",
    ):
        new = progress_of(line, known)
        if new != known:
            told.append((new["stage"], new["done"], new["of"]))
        known = new
    assert told == [
        *[("base", 0, 0), ("packages", 0, 0), ("packages", 3, 140), ("packages", 140, 140), ("compile", 0, 0)],
        *[("compile", 7, 76), ("test", 0, 0), ("squash", 0, 0), ("hash", 0, 0)],
    ]


@pytest.mark.parametrize(
    ("line", "stage", "kind", "words"),
    [
        ("bouchet: refused pin.yaml says `oci: x`", "base", "refused", "pin.yaml says"),
        ("tar: write error: No space left on device", "packages", "disk_full", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "packages", "wrong_hash", "not the one"),
        (
            "ERROR: No matching distribution found for torch==2.13.0+cpu",
            "packages",
            "missing_wheel",
            "torch==2.13.0+cpu",
        ),
        (
            "dial tcp: lookup registry on 127.0.0.11:53: i/o timeout",
            "base",
            "no_network",
            "bouchet image build tiny --from",
        ),
        ("ImportError: libcuda.so.1: cannot open", "test", "test_failed", "does not work"),
        ("FATAL:   While performing build: odd", "squash", "build_failed", "While performing build: odd"),
    ],
)
def test_a_failure_is_told_in_words(line: str, stage: str, kind: str, words: str) -> None:
    found, sentence = failure_in_words(["INFO:    Starting build...", line, "bouchet: step x"], stage, "tiny", None)
    assert found == kind and words in sentence


def test_a_build_says_what_came_of_it(tmp_path: Path) -> None:
    image(tmp_path)
    done = job(tmp_path, end='rmdir "$2/.tiny.abcdef"')
    assert done.returncode == 0, done.stderr
    told = said(tmp_path)
    assert told["state"] == "done" and told["sentence"].startswith("built in")
    assert (told["bytes"], told["sha256"]) == (3, hashlib.sha256(b"SIF").hexdigest())


def test_a_site_file_with_another_hash_is_told(tmp_path: Path) -> None:
    image(tmp_path)
    assert job(tmp_path, image_sha256="f" * 64).returncode == 0
    assert "the site file names another sha256" in said(tmp_path)["sentence"]


def test_a_build_that_fails_leaves_nothing_and_the_older_image(tmp_path: Path) -> None:
    image(tmp_path)
    done = job(tmp_path, end="echo 'ERROR: No matching distribution found for vllm==9' >&2; kill -9 $$")
    assert done.returncode == 1 and "vllm==9" in done.stderr
    assert (said(tmp_path)["state"], said(tmp_path)["kind"]) == ("failed", "missing_wheel")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "tiny.manifest.json",
        "tiny.sif",
        "tiny.sif.sha256",
    ]


def test_too_small_a_folder_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    done = job(tmp_path, build_gib=10**6)
    assert done.returncode == 1
    assert "takes about 1000000 GiB while it is built" in said(tmp_path)["sentence"]
    assert str(tmp_path) in said(tmp_path)["sentence"] and "build_dir" in said(tmp_path)["sentence"]
    assert "bouchet: step" not in done.stdout


def test_a_staged_folder_that_lacks_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    assert job(tmp_path, source=str(tmp_path)).returncode == 1
    assert "holds no base.tar" in said(tmp_path)["sentence"]


def test_what_the_site_has_staged_is_taken_where_it_is_there(tmp_path: Path) -> None:
    image(tmp_path)
    end = 'rmdir "$2/.tiny.abcdef"; echo "from ${3:-the network}"'
    assert "from the network" in job(tmp_path, end=end, staged=str(tmp_path / "nothing")).stdout
    staged = tmp_path / "staged"
    (staged / "wheels").mkdir(parents=True)
    (staged / "base.tar").touch()
    assert f"from {staged}" in job(tmp_path, end=end, staged=str(staged)).stdout


def test_verify_hashes_anew_and_keeps_the_hash_for_starts(tmp_path: Path) -> None:
    digest = image(tmp_path)
    assert job(tmp_path, "verify").returncode == 0
    assert digest[:12] in said(tmp_path)["sentence"]
    (note,) = (tmp_path / "root" / "cache" / "hashes").iterdir()
    assert note.read_text().strip() == digest and stat.S_IMODE(note.stat().st_mode) == 0o600


@pytest.mark.parametrize("record", ["tiny.sif", "tiny.sif.sha256", "tiny.manifest.json", "site"])
def test_verify_finds_whatever_does_not_fit(tmp_path: Path, record: str) -> None:
    image(tmp_path)
    path = tmp_path / "images" / record
    spec = {"image_sha256": "f" * 64} if record == "site" else {}
    if record == "tiny.sif":
        path.write_bytes(b"SIx")
    elif record != "site":
        path.write_text(path.read_text().replace(hashlib.sha256(b"SIF").hexdigest(), "f" * 64))
    assert job(tmp_path, "verify", **spec).returncode == 1
    assert "is not what it was" in said(tmp_path)["sentence"]


def look(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [OLDEST, str(SCRIPTS / "list_images.py"), *words]
    return subprocess.run([*argv[:3], str(folder), *argv[3:]], capture_output=True, text=True, timeout=60)


def test_the_look_names_every_image_and_removing_takes_its_records_along(tmp_path: Path) -> None:
    digest = image(tmp_path)
    (tmp_path / "images" / "bare.sif").write_bytes(b"x")
    (tmp_path / "images" / ".tiny.abcdef").mkdir()
    there = json.loads(look(tmp_path / "images", "list").stdout)["images"]
    assert {pin: row["sha256"] for pin, row in there.items()} == {"bare": None, "tiny": digest}
    done = look(tmp_path / "images", "remove", "tiny")
    assert done.stdout == "3\n" and sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        ".tiny.abcdef",
        "bare.sif",
    ]
    for name in ("tiny", "../images/bare", "bare.sif"):
        assert look(tmp_path / "images", "remove", name).returncode == 1
    assert json.loads(look(tmp_path / "nothing", "list").stdout)["images"] == {}
