"""What the nodes need and cannot fetch, gathered in a folder of this machine that they see read-only."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import wheels
from .commands import run, step
from .layout import PIN, DemoLayout

BUILD_TIMEOUT_S = 900
BASE_ARCHIVE = "base.tar"


def stage(layout: DemoLayout) -> None:
    """Stage everything in parallel; existing files are kept."""
    stage_files(layout)
    parts: list[Callable[[DemoLayout], None]] = [stage_packages, stage_base, stage_model_sources]
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(part, layout) for part in parts]:
            done.result()


def stage_files(layout: DemoLayout) -> None:
    """Copy recipes and scripts that differ."""
    copy_changed([*layout.pin_files, *layout.pin().folder.iterdir()], layout.staging / PIN)
    copy_changed((layout.root / "demo" / "jobs").glob("*.sh"), layout.staging / "jobs")
    copy_changed((file for file in layout.model_sources.iterdir() if file.is_file()), layout.staging / "models")


def stage_packages(layout: DemoLayout) -> None:
    """Download vLLM and its dependencies: about 450 MB."""
    pin = layout.pin()
    into = layout.staging / PIN / "wheels"
    if not wheels.is_complete(pin.lock, into):
        with step("download vLLM's packages"):
            wheels.download(pin.lock, into, pin.target)


def stage_model_sources(layout: DemoLayout) -> None:
    """Download what the models are made from: about 100 MB."""
    lock = layout.model_sources / "requirements.lock"
    into = layout.staging / "models" / "wheels"
    if not wheels.is_complete(lock, into):
        with step("download the models' sources"):
            wheels.download(lock, into, layout.pin().target)


def stage_base(layout: DemoLayout) -> None:
    """Make the archive of the image's base distribution."""
    archive = layout.staging / PIN / BASE_ARCHIVE
    recipe = layout.root / "apptainer" / "base.Dockerfile"
    mark = archive.with_suffix(".made-from")
    digest = hashlib.sha256(recipe.read_bytes()).hexdigest()
    if archive.is_file() and mark.is_file() and mark.read_text() == digest:
        return
    with step("make the image's base"):
        _make_base(layout, recipe, archive)
        mark.write_text(digest)


def _make_base(layout: DemoLayout, recipe: Path, archive: Path) -> None:
    base = layout.pin().facts["base"]
    tag = f"bouchet/vllm-base:{PIN}"
    script = str(layout.root / "demo" / "base_image.sh")
    run(["bash", script, base, base.split(":")[1].removesuffix("-slim")], timeout_s=BUILD_TIMEOUT_S)
    build = ["docker", "build", "--quiet", "--tag", tag, "--build-arg", f"BASE={base}", "--file", str(recipe)]
    run([*build, str(recipe.parent)], timeout_s=BUILD_TIMEOUT_S)
    partial = archive.with_suffix(".partial")
    run(["docker", "image", "save", "--output", str(partial), tag], timeout_s=BUILD_TIMEOUT_S)
    run(["docker", "image", "rm", tag], timeout_s=BUILD_TIMEOUT_S)
    partial.chmod(0o644)
    partial.replace(archive)


def copy_changed(files: Iterable[Path], folder: Path) -> None:
    """Copy files so that other users can read them: a checkout's own modes may forbid it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for file in files:
        target = folder / file.name
        if not target.is_file() or target.read_bytes() != file.read_bytes():
            partial = folder / f".{file.name}.partial"
            shutil.copyfile(file, partial)
            partial.chmod(0o755 if file.suffix == ".sh" else 0o644)
            partial.replace(target)
