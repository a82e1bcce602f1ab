"""Container images: pins of the project, images on the cluster, builds. Values are frozen, sizes are in bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StringConstraints

from .batch_jobs import BatchJob
from .errors import ConfigurationError, UnknownPinError
from .values import CpuArch, FrozenModel, RemotePath, pin_arch

PinName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Action = Literal["build", "verify"]
OCI = re.compile(r"[A-Za-z0-9._:/-]+@sha256:[0-9a-f]{64}")
LOCK, FACTS = "requirements.lock", "pin.yaml"
# the recipe hash is over these files in this order; apptainer/build.sh computes the same
RECIPE = ("vllm.def", LOCK, FACTS)
# lines of pin.yaml that an image does not depend on: sizes may be measured again
NO_RECIPE = re.compile(rb"(#|build_gib:|image_gib:|$)")


class ImagePin(FrozenModel):
    """One folder of apptainer/pins. A pin has either a lock or the digest of an OCI image."""

    name: PinName
    vllm: str
    torch: str
    cuda: str | None = None
    min_driver: str | None = None
    platform: Literal["linux/amd64", "linux/arm64"] = "linux/amd64"
    oci: str | None = None
    build_gib: int = Field(default=40, ge=1, description="space that a build needs on the node's local disk")
    image_gib: int = Field(default=12, ge=1)
    files: Mapping[str, bytes] = Field(repr=False)

    @property
    def arch(self) -> CpuArch:
        """The CPU type that the image is made for."""
        return "aarch64" if self.platform == "linux/arm64" else "x86_64"

    def recipe_sha256(self, definition: bytes) -> str:
        """Return the recipe hash in the manifest of an image built from this pin; definition: vllm.def."""
        lines = self.files[FACTS].splitlines(keepends=True)
        facts = b"".join(line for line in lines if not NO_RECIPE.match(line.rstrip(b"\n")))
        files = {**self.files, FACTS: facts, "vllm.def": definition}
        return hashlib.sha256(b"".join(files[name] for name in RECIPE if name in files)).hexdigest()


def load_pins(folder: Path) -> dict[str, ImagePin]:
    """Read all pins by name; ConfigurationError names the file that is wrong."""
    return {path.parent.name: load_pin(path.parent) for path in sorted(folder.glob(f"*/{FACTS}"))}


def find_pin(folder: Path, name: str) -> ImagePin:
    """Read the pin of that name. Raises UnknownPinError, ConfigurationError."""
    known = sorted(path.parent.name for path in folder.glob(f"*/{FACTS}"))
    if name not in known:
        raise UnknownPinError(name, known)
    return load_pin(folder / name)


def load_pin(folder: Path) -> ImagePin:
    """Read one pin; pin.yaml has flat `name: value` lines. Raises ConfigurationError."""
    path = folder / FACTS
    try:
        files = {name: (folder / name).read_bytes() for name in (LOCK, FACTS) if (folder / name).is_file()}
    except OSError as exc:
        raise ConfigurationError(str(exc.filename), f"cannot be read: {exc.strerror}") from exc
    found = re.findall(r"^([a-z_]+): *(.*?) *$", files[FACTS].decode("utf-8", "replace"), re.M)
    facts = {name: value.strip("\"'") for name, value in found if value not in ("null", "")}
    own = {name: value for name, value in facts.items() if name in ImagePin.model_fields}
    try:
        pin = ImagePin.model_validate({**own, "files": files})
    except ValueError as exc:
        raise ConfigurationError(str(path), " ".join(str(exc).split())) from exc
    if pin.name != folder.name:
        raise ConfigurationError(str(path), f"its name is {pin.name!r}, but its folder is {folder.name!r}")
    if pin.arch != pin_arch(pin.name):
        problem = f"it is for {pin.platform}: the name of an image for arm64, and of no other, has the part `arm64`"
        raise ConfigurationError(str(path), problem)
    if pin.oci is not None and not OCI.fullmatch(pin.oci):
        problem = f"oci is {pin.oci!r}; use a digest, as in vllm/vllm-openai@sha256:... (a tag may change)"
        raise ConfigurationError(str(path), problem)
    if (pin.oci is None) is (LOCK not in files):
        raise ConfigurationError(str(path), f"a pin needs either a {LOCK} or an `oci:` line")
    return pin


class ImageRequest(FrozenModel):
    """The body of a request for a build or a verification."""

    pin: PinName = Field(description="a folder of apptainer/pins")
    action: Action = "build"
    source: RemotePath | None = Field(
        default=None, description="folder on the cluster with wheels/ and base.tar, for nodes without network"
    )
    rebuild: StrictBool = Field(default=False, description="build even if the existing image has the same recipe")
    force: StrictBool = Field(default=False, description="replace the image even if a live deployment uses it")


class ImageJob(BatchJob):
    """The record of one build or verification."""

    pin: PinName
    action: Action = "build"
    source: RemotePath | None = None
    rebuild: bool = False
    force: bool = False
    stage: str = Field(
        default="", description="step of a build: base, system, packages, compile, test, squash, sign, hash"
    )
    done: int = Field(default=0, description="progress in the unit of the step: packages, parts of files, MiB")
    of: int = 0
    sha256: str | None = None
    bytes: int | None = None
    seconds: int | None = Field(default=None, description="duration of the build, without its time in the queue")
    current: bool = Field(default=False, description="nothing was built: the existing image has the same recipe")

    @property
    def subject(self) -> str:
        """The pin."""
        return self.pin


def job_stem(action: Action, pin: str) -> str:
    """Return a job's name without its record's id, by which a later request finds the job."""
    return f"bouchet-image-{action}-{pin}-"


class ImageStatus(FrozenModel):
    """One pin, or one image on the cluster that has no pin."""

    pin: str
    known: bool = Field(default=True, description="whether the project has a pin of this name")
    state: Literal["ready", "outdated", "missing", "unknown"] = Field(
        default="unknown", description="ready: built from the current pin; outdated: from an older version of it"
    )
    bytes: int | None = None
    sha256: str | None = None
    made_at: datetime | None = None
    vllm: str | None = None
    torch: str | None = None
    cuda: str | None = None
    min_driver: str | None = None
    arch: CpuArch = Field(default="x86_64", description="CPU type that it is made for, as in the pin's name")
    oci: str | None = Field(default=None, description="digest of the OCI image that it was converted from")
    oci_manifest: str | None = Field(
        default=None, description="manifest that the digest resolves to on the cluster's platform"
    )
    commit: str | None = Field(default=None, description="commit of the recipe that it was built from")
    is_default: bool = False
    in_site: bool = Field(default=False, description="whether the site file lists it, which a launch requires")
    models: tuple[str, ...] = Field(default=(), description="models of the catalog that use it")
    deployments: tuple[str, ...] = Field(default=(), description="live deployments that use it")


class ImageList(FrozenModel):
    """All pins and images. problem: why the cluster could not be queried."""

    images: tuple[ImageStatus, ...]
    free_bytes: int | None = None
    problem: str = ""


class RemovedImage(FrozenModel):
    """An image that was removed from the cluster."""

    pin: str
    bytes: int
