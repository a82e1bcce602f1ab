"""apptainer/build.sh: what it begins from, what it refuses, and that an image is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.remote.compute_node import REPOSITORY

APPTAINER = REPOSITORY / "tests" / "fakes" / "building_apptainer.py"
DIGEST = "sha256:" + "a" * 64


class Build:
    """A pin's folder, an images' folder, and the script on them."""

    def __init__(self, root: Path) -> None:
        self.pin, self.images, self.tmp = root / "pin", root / "images", root / "tmp"
        shutil.copytree(REPOSITORY / "apptainer", self.pin, ignore=shutil.ignore_patterns("pins", "__pycache__"))
        self.tmp.mkdir()
        (self.pin / "requirements.lock").write_text("vllm==1.0 --hash=sha256:0\n")
        self.facts(base="debian:bookworm-slim")

    def facts(self, **more: str) -> None:
        """Writes pin.yaml."""
        words = {"name": "some-1.0", "vllm": '"1.0"', "torch": '"2.0"', "cuda": "null", **more}
        (self.pin / "pin.yaml").write_text("".join(f"{name}: {word}\n" for name, word in words.items()))

    def start(self, *more: str, **environ: str) -> subprocess.Popen[str]:
        """The script, running."""
        return subprocess.Popen(
            ["bash", str(self.pin / "build.sh"), str(self.pin), str(self.images), *more],
            env={"PATH": os.environ["PATH"], "APPTAINER": str(APPTAINER), "TMPDIR": str(self.tmp), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *more: str, **environ: str) -> tuple[int, str]:
        """Its status and what it printed."""
        with self.start(*more, **environ) as process:
            text, _ = process.communicate(timeout=60)
            return process.returncode, text

    def there(self) -> list[str]:
        """All files of images, hidden ones too but for the lock; and what is left of the build itself."""
        assert list(self.tmp.iterdir()) == []
        return sorted(path.name for path in self.images.iterdir() if path.name != ".some-1.0.lock")


WHOLE = ["some-1.0.manifest.json", "some-1.0.sif", "some-1.0.sif.sha256"]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


def test_an_image_comes_with_its_hash_and_manifest(build: Build) -> None:
    status, text = build()
    assert status == 0, text
    assert build.there() == WHOLE
    image = (build.images / "some-1.0.sif").read_bytes()
    digest = hashlib.sha256(image).hexdigest()
    assert (build.images / "some-1.0.sif.sha256").read_text() == f"{digest}  some-1.0.sif\n"
    assert json.loads((build.images / "some-1.0.manifest.json").read_text())["sif_sha256"] == digest
    given = image.decode()
    lock = hashlib.sha256((build.pin / "requirements.lock").read_bytes()).hexdigest()
    assert f"lock_sha256={lock}\n" in given and "bootstrap=docker\nbase=debian:bookworm-slim\n" in given
    assert "cuda=" not in given, "null is left to the recipe's own default"


def test_the_same_recipe_is_built_once_unless_it_is_wanted(build: Build) -> None:
    build()
    first = (build.images / "some-1.0.sif").stat().st_ino
    status, text = build()
    assert status == 0 and "bouchet: current" in text
    assert (build.images / "some-1.0.sif").stat().st_ino == first
    assert build(BOUCHET_REBUILD="yes")[0] == 0
    assert (build.images / "some-1.0.sif").stat().st_ino != first and build.there() == WHOLE


def test_an_image_in_use_is_not_replaced(build: Build) -> None:
    build()
    before = (build.images / "some-1.0.sif").read_bytes()
    assert build(BOUCHET_IN_USE="mine")[0] == 0, "nothing to do is nothing to refuse"
    build.facts(base="debian:trixie-slim")
    status, text = build(BOUCHET_IN_USE="mine")
    assert status == 3 and "bouchet: refused mine serves from the image" in text
    assert (build.images / "some-1.0.sif").read_bytes() == before and build.there() == WHOLE


def test_staged_files_are_taken_where_they_are(build: Build, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "base.tar").touch()
    assert build(str(staged))[0] == 0
    assert f"bootstrap=docker-archive\nbase={staged}/base.tar\n" in (build.images / "some-1.0.sif").read_text()


def test_an_oci_image_is_named_by_its_digest(build: Build) -> None:
    (build.pin / "requirements.lock").unlink()
    build.facts(oci=f"vllm/vllm-openai@{DIGEST}")
    status, text = build()
    assert status == 0, text
    given = (build.images / "some-1.0.sif").read_text()
    assert f"bootstrap=docker\nbase=vllm/vllm-openai@{DIGEST}\n" in given and "lock_sha256=none\n" in given


@pytest.mark.parametrize("name", ["vllm/vllm-openai:v0.32.0", "vllm/vllm-openai", "vllm/vllm-openai@sha256:abc"])
def test_a_tag_is_refused(build: Build, name: str) -> None:
    build.facts(oci=name)
    status, text = build()
    assert status == 3 and "name the image by its digest" in text and build.there() == []


def test_an_archive_of_another_image_is_refused(build: Build, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:" + "b" * 64}]}))
    subprocess.run(["tar", "-cf", "image.tar", "index.json"], cwd=staged, check=True)
    build.facts(oci=f"vllm/vllm-openai@{DIGEST}")
    status, text = build(str(staged))
    assert status == 3 and "bouchet: refused" in text and "the pin names " + DIGEST in text and build.there() == []


def test_a_build_that_fails_keeps_the_older_image(build: Build) -> None:
    build()
    before = (build.images / "some-1.0.sif").read_bytes()
    build.facts(base="debian:trixie-slim")
    status, _ = build(FAKE_BUILD="fails")
    assert status == 1
    assert (build.images / "some-1.0.sif").read_bytes() == before and build.there() == WHOLE


def test_a_build_that_is_told_to_end_leaves_nothing(build: Build) -> None:
    with build.start(FAKE_BUILD="hangs") as process:
        assert process.stdout is not None
        assert any("hangs" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143 and build.there() == []


def test_what_a_killed_build_has_left_is_cleared_away(build: Build) -> None:
    (build.images / ".some-1.0.abcdef").mkdir(parents=True)
    (build.images / ".some-1.0.abcdef" / "some-1.0.sif").touch()
    (build.images / ".other-1.0.abcdef").mkdir()
    assert build()[0] == 0
    assert build.there() == [".other-1.0.abcdef", *WHOLE]
