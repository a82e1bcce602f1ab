"""apptainer/build.sh: what it builds from and refuses, and that an image is complete or missing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.remote.compute_node import FAKES, REPOSITORY
from tests.waiting import wait_for

APPTAINER = FAKES / "building_apptainer.py"
DIGEST = "sha256:" + "a" * 64


class ImageBuild:
    """A pin folder, an images folder, and the script that builds from one into the other."""

    def __init__(self, root: Path) -> None:
        self.pin, self.images, self.tmp = root / "pin", root / "images", root / "tmp"
        shutil.copytree(REPOSITORY / "apptainer", self.pin, ignore=shutil.ignore_patterns("pins", "__pycache__"))
        self.tmp.mkdir()
        (self.pin / "requirements.lock").write_text("vllm==1.0 --hash=sha256:0\n")
        self.write_pin(base="debian:bookworm-slim")

    def write_pin(self, **more: str) -> None:
        """Write pin.yaml."""
        pin = {"name": "some-1.0", "vllm": '"1.0"', "torch": '"2.0"', "cuda": "null", **more}
        (self.pin / "pin.yaml").write_text("".join(f"{name}: {value}\n" for name, value in pin.items()))

    def start(self, *more: str, **environ: str) -> subprocess.Popen[str]:
        """Start the script."""
        return subprocess.Popen(
            ["bash", str(self.pin / "build.sh"), str(self.pin), str(self.images), *more],
            env={"PATH": os.environ["PATH"], "APPTAINER": str(APPTAINER), "TMPDIR": str(self.tmp), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *more: str, **environ: str) -> tuple[int, str]:
        """Run the script; its exit status and output."""
        with self.start(*more, **environ) as process:
            text, _ = process.communicate(timeout=60)
            return process.returncode, text

    def files(self) -> list[str]:
        """Return the files in the images folder but the lock, after checking that TMPDIR is empty."""
        assert list(self.tmp.iterdir()) == []
        return sorted(path.name for path in self.images.iterdir() if path.name != ".some-1.0.lock")


COMPLETE = ["some-1.0.manifest.json", "some-1.0.sif", "some-1.0.sif.sha256"]


@pytest.fixture
def build(tmp_path: Path) -> ImageBuild:
    return ImageBuild(tmp_path)


def test_build_writes_image_hash_and_manifest(build: ImageBuild) -> None:
    status, text = build()
    assert status == 0, text
    assert build.files() == COMPLETE
    image = (build.images / "some-1.0.sif").read_bytes()
    digest = hashlib.sha256(image).hexdigest()
    assert (build.images / "some-1.0.sif.sha256").read_text() == f"{digest}  some-1.0.sif\n"
    assert json.loads((build.images / "some-1.0.manifest.json").read_text())["sif_sha256"] == digest
    given = image.decode()
    lock = hashlib.sha256((build.pin / "requirements.lock").read_bytes()).hexdigest()
    assert f"lock_sha256={lock}\n" in given and "bootstrap=docker\nbase=debian:bookworm-slim\n" in given
    assert "cuda=" not in given, "null leaves the recipe's own default"


def test_folders_may_be_relative(build: ImageBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build.pin, build.images = Path("pin"), Path("new/images")
    status, text = build()
    assert status == 0, text
    assert sorted(path.name for path in build.images.glob("some*")) == COMPLETE


def test_same_recipe_is_built_once_unless_rebuild(build: ImageBuild) -> None:
    build()
    first = (build.images / "some-1.0.sif").stat().st_ino
    status, text = build()
    assert status == 0 and "bouchet: current" in text
    assert (build.images / "some-1.0.sif").stat().st_ino == first
    assert build(BOUCHET_REBUILD="yes")[0] == 0
    assert (build.images / "some-1.0.sif").stat().st_ino != first and build.files() == COMPLETE


def test_sizes_and_comments_are_no_part_of_the_recipe(build: ImageBuild) -> None:
    build.write_pin(build_gib="40")
    build()
    build.write_pin(build_gib="18", image_gib="6")
    with (build.pin / "pin.yaml").open("a") as file:
        file.write("# measured on the demo cluster\n\n")
    assert "bouchet: current" in build()[1]
    build.write_pin(build_gib="18", min_driver="580")
    assert "bouchet: current" not in build()[1]


def test_image_in_use_is_not_replaced(build: ImageBuild) -> None:
    build()
    before = (build.images / "some-1.0.sif").read_bytes()
    assert build(BOUCHET_IN_USE="mine")[0] == 0, "there is nothing to build"
    build.write_pin(base="debian:trixie-slim")
    status, text = build(BOUCHET_IN_USE="mine")
    assert status == 3 and "bouchet: refused mine serves from the existing image" in text
    assert (build.images / "some-1.0.sif").read_bytes() == before and build.files() == COMPLETE


def test_staged_base_is_used(build: ImageBuild, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "base.tar").touch()
    assert build(str(staged))[0] == 0
    assert f"bootstrap=docker-archive\nbase={staged}/base.tar\n" in (build.images / "some-1.0.sif").read_text()


def test_base_is_pulled_by_the_digest_of_the_pin(build: ImageBuild) -> None:
    build.write_pin(base="debian:bookworm-slim", base_digest=DIGEST)
    status, text = build()
    assert status == 0, text
    assert f"bootstrap=docker\nbase=debian@{DIGEST}\n" in (build.images / "some-1.0.sif").read_text()


def test_base_digest_of_another_form_is_refused(build: ImageBuild) -> None:
    build.write_pin(base="debian:bookworm-slim", base_digest="latest")
    status, text = build()
    assert status == 3 and "it is sha256:HASH" in text and build.files() == []


def test_manifest_records_the_base(build: ImageBuild, tmp_path: Path) -> None:
    assert build()[0] == 0
    manifest = build.images / "some-1.0.manifest.json"
    assert json.loads(manifest.read_text())["base"] == "debian:bookworm-slim"
    (tmp_path / "base.tar").write_text("x")
    assert build(str(tmp_path), BOUCHET_REBUILD="yes")[0] == 0
    digest = hashlib.sha256(b"x").hexdigest()
    assert json.loads(manifest.read_text())["base"] == f"base.tar sha256:{digest}"


def test_oci_image_is_pulled_by_digest(build: ImageBuild) -> None:
    (build.pin / "requirements.lock").unlink()
    build.write_pin(oci=f"vllm/vllm-openai@{DIGEST}")
    status, text = build()
    assert status == 0, text
    given = (build.images / "some-1.0.sif").read_text()
    assert f"bootstrap=docker\nbase=vllm/vllm-openai@{DIGEST}\n" in given and "lock_sha256=none\n" in given


@pytest.mark.parametrize("name", ["vllm/vllm-openai:v0.32.0", "vllm/vllm-openai", "vllm/vllm-openai@sha256:abc"])
def test_oci_tag_is_refused(build: ImageBuild, name: str) -> None:
    build.write_pin(oci=name)
    status, text = build()
    assert status == 3 and "name the image by its digest" in text and build.files() == []


def test_archive_of_other_image_is_refused(build: ImageBuild, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:" + "b" * 64}]}))
    subprocess.run(["tar", "-cf", "image.tar", "index.json"], cwd=staged, check=True)
    build.write_pin(oci=f"vllm/vllm-openai@{DIGEST}")
    status, text = build(str(staged))
    assert status == 3 and "bouchet: refused" in text and "the pin names " + DIGEST in text and build.files() == []


def test_failed_build_keeps_older_image_and_manifest(build: ImageBuild) -> None:
    build()
    before = (build.images / "some-1.0.sif").read_bytes()
    build.write_pin(base="debian:trixie-slim")
    status, _ = build(FAKE_BUILD="fails")
    assert status == 1
    assert (build.images / "some-1.0.sif").read_bytes() == before and build.files() == COMPLETE


def test_terminated_build_leaves_nothing(build: ImageBuild) -> None:
    with build.start(FAKE_BUILD="hangs") as process:
        assert process.stdout is not None
        assert any("hangs" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143 and build.files() == []


def test_leftovers_of_killed_build_are_removed(build: ImageBuild) -> None:
    (build.images / ".some-1.0.abcdef").mkdir(parents=True)
    (build.images / ".some-1.0.abcdef" / "some-1.0.sif").touch()
    (build.images / ".other-1.0.abcdef").mkdir()
    assert build()[0] == 0
    assert build.files() == [".other-1.0.abcdef", *COMPLETE]


def test_build_waits_for_other_build_though_lock_file_was_removed(build: ImageBuild) -> None:
    build.images.mkdir()
    path = build.images / ".some-1.0.lock"
    with path.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with build.start() as process:
            wait_for(lambda: len(list(Path(f"/proc/{process.pid}/fd").glob("9"))) == 1, 30)
            path.unlink()
            with path.open("w") as second:
                fcntl.flock(second, fcntl.LOCK_EX)
                fcntl.flock(first, fcntl.LOCK_UN)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
            process.communicate(timeout=60)
    assert process.returncode == 0 and build.files() == COMPLETE
