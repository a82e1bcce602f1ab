"""Where things lie: in the repository, in the staging folder that the nodes see, and on the cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .wheels import WheelTarget

PIN = "cpu-0.32.0"

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
    """The repository's folder and the staging folder."""

    root: Path
    staging: Path

    @property
    def model_sources(self) -> Path:
        return self.root / "demo" / "models"

    @property
    def pin_files(self) -> list[Path]:
        names = ("vllm.def", "build.sh", "manifest.py", "oci.py", "commit")
        return [path for name in names if (path := self.root / "apptainer" / name).is_file()]

    def pin(self) -> DemoPin:
        folder = self.root / "apptainer" / "pins" / PIN
        return DemoPin(folder, parse_flat_yaml((folder / "pin.yaml").read_text()))

    def image_recipe(self) -> str:
        """Compute the recipe's digest as apptainer/build.sh does."""
        pin = self.pin().folder
        return _digest([self.root / "apptainer" / "vllm.def", pin / "requirements.lock", pin / "pin.yaml"])

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
