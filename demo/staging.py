"""Folders of the demo, and the files that its nodes need and cannot fetch: staged on this machine, read-only there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import wheels
from .commands import run, step
from .wheels import WheelTarget

# the image of the nodes, by their CPU type
PINS = {"x86_64": "cpu-0.32.0", "aarch64": "cpu-arm64-0.32.0"}

# On the cluster.
STAGING = PurePosixPath("/staging")
IMAGES = PurePosixPath("/software/images")
MODELS = PurePosixPath("/software/models")
PLUGINS = MODELS / "demo/plugins"


@dataclass(frozen=True)
class DemoPin:
    """A pinned image's folder, and what its pin.yaml says."""

    folder: Path
    facts: dict[str, str]

    @property
    def lock(self) -> Path:
        return self.folder / "requirements.lock"

    @property
    def target(self) -> WheelTarget:
        machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[self.facts["platform"]]
        return WheelTarget(self.facts["python"], self.facts["glibc"], machine)


@dataclass(frozen=True)
class DemoModel:
    """A model that the demo makes: its name under MODELS, and the script in demo/models."""

    name: str
    script: str
    inputs: tuple[str, ...]

    @property
    def folder(self) -> PurePosixPath:
        return MODELS / self.name


DEMO_MODELS = (
    DemoModel("HuggingFaceTB/SmolLM2-135M-Instruct", "convert_smollm2.py", ()),
    DemoModel("demo/scripted", "make_scripted_model.py", ("chatml.jinja",)),
)
PLUGIN_FILES = ("scripted.py", "scripted_reply.py")


@dataclass(frozen=True)
class DemoLayout:
    """The repository's folder, the staging folder and the nodes' CPU type, one of PINS."""

    root: Path
    staging: Path
    cpu: str = "x86_64"

    @property
    def pin_name(self) -> str:
        return PINS[self.cpu]

    @property
    def image(self) -> PurePosixPath:
        """The image on the cluster."""
        return IMAGES / f"{self.pin_name}.sif"

    @property
    def manifest(self) -> PurePosixPath:
        """What the image on the cluster was made from."""
        return IMAGES / f"{self.pin_name}.manifest.json"

    @property
    def model_sources(self) -> Path:
        return self.root / "demo" / "models"

    @property
    def pin_files(self) -> list[Path]:
        names = ("vllm.def", "build.sh", "manifest.py", "oci.py", "commit")
        return [path for name in names if (path := self.root / "apptainer" / name).is_file()]

    def pin(self) -> DemoPin:
        folder = self.root / "apptainer" / "pins" / self.pin_name
        return DemoPin(folder, parse_flat_yaml((folder / "pin.yaml").read_text()))

    def image_recipe(self) -> str:
        """Compute the recipe's digest as apptainer/build.sh does: sizes and comments in pin.yaml are no part of it."""
        pin = self.pin().folder
        files = [self.root / "apptainer" / "vllm.def", pin / "requirements.lock"]
        lines = (pin / "pin.yaml").read_bytes().splitlines(keepends=True)
        facts = [line for line in lines if not line.startswith((b"#", b"build_gib:", b"image_gib:", b"\n"))]
        return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), *facts])).hexdigest()

    def model_recipe(self, model: DemoModel) -> str:
        names = (model.script, *model.inputs, "requirements.lock")
        return _digest(self.model_sources / name for name in names)


def parse_flat_yaml(text: str) -> dict[str, str]:
    """Parse `name: value` lines; comments and quotes are dropped, null is empty."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    words = {name.strip(): word.strip().strip("\"'") for name, word in pairs}
    return {name: "" if word == "null" else word for name, word in words.items()}


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


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
    copy_changed([*layout.pin_files, *layout.pin().folder.iterdir()], layout.staging / layout.pin_name)
    copy_changed((layout.root / "demo" / "jobs").glob("*.sh"), layout.staging / "jobs")
    copy_changed((file for file in layout.model_sources.iterdir() if file.is_file()), layout.staging / "models")


def stage_packages(layout: DemoLayout) -> None:
    """Download vLLM and its dependencies: about 450 MB."""
    pin = layout.pin()
    into = layout.staging / layout.pin_name / "wheels"
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
    archive = layout.staging / layout.pin_name / BASE_ARCHIVE
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
    tag = f"bouchet/vllm-base:{layout.pin_name}"
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
