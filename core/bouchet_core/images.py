"""The nouns of images: pins of the project, what lies on the cluster, builds. Values are frozen, sizes are bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .batch_jobs import BatchJob
from .errors import ConfigurationError, UnknownPinError
from .values import FrozenModel, RemotePath

PinName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Action = Literal["build", "verify"]
OCI = re.compile(r"[A-Za-z0-9._:/-]+@sha256:[0-9a-f]{64}")
LOCK, FACTS = "requirements.lock", "pin.yaml"
# of the files that decide what goes in, in this order; apptainer/build.sh computes the same
RECIPE = ("vllm.def", LOCK, FACTS)


class ImagePin(FrozenModel):
    """One folder of apptainer/pins. A pin has a lock, or names an OCI image by its digest."""

    name: PinName
    vllm: str
    torch: str
    cuda: str | None = None
    min_driver: str | None = None
    oci: str | None = None
    build_gib: int = Field(default=40, ge=1, description="what a build takes on the node's own disk")
    image_gib: int = Field(default=12, ge=1)
    files: Mapping[str, bytes] = Field(repr=False)

    def recipe_sha256(self, definition: bytes) -> str:
        """What the manifest of an image made from this pin says; definition: vllm.def."""
        files = {**self.files, "vllm.def": definition}
        return hashlib.sha256(b"".join(files[name] for name in RECIPE if name in files)).hexdigest()


def load_pins(folder: Path) -> dict[str, ImagePin]:
    """All pins by name; ConfigurationError names the file that is wrong."""
    return {path.parent.name: load_pin(path.parent) for path in sorted(folder.glob(f"*/{FACTS}"))}


def find_pin(folder: Path, name: str) -> ImagePin:
    """The pin of that name. Raises UnknownPinError, ConfigurationError."""
    known = sorted(path.parent.name for path in folder.glob(f"*/{FACTS}"))
    if name not in known:
        raise UnknownPinError(name, known)
    return load_pin(folder / name)


def load_pin(folder: Path) -> ImagePin:
    """pin.yaml holds flat `name: word` lines."""
    path = folder / FACTS
    try:
        files = {name: (folder / name).read_bytes() for name in (LOCK, FACTS) if (folder / name).is_file()}
    except OSError as exc:
        raise ConfigurationError(str(exc.filename), f"cannot be read: {exc.strerror}") from exc
    found = re.findall(r"^([a-z_]+): *(.*?) *$", files[FACTS].decode("utf-8", "replace"), re.M)
    facts = {name: word.strip("\"'") for name, word in found if word not in ("null", "")}
    own = {name: word for name, word in facts.items() if name in ImagePin.model_fields}
    try:
        pin = ImagePin.model_validate({**own, "files": files})
    except ValueError as exc:
        raise ConfigurationError(str(path), " ".join(str(exc).split())) from exc
    if pin.name != folder.name:
        raise ConfigurationError(str(path), f"its name is {pin.name!r}, its folder's {folder.name!r}")
    if pin.oci is not None and not OCI.fullmatch(pin.oci):
        said = f"oci is {pin.oci!r}; name the image by its digest, as in vllm/vllm-openai@sha256:... (a tag may move)"
        raise ConfigurationError(str(path), said)
    if (pin.oci is None) is (LOCK not in files):
        raise ConfigurationError(str(path), f"a pin has either a {LOCK} beside it or an `oci:` line")
    return pin


class ImageRequest(FrozenModel):
    """What a person asked for."""

    pin: PinName = Field(description="a folder of apptainer/pins")
    action: Action = "build"
    source: RemotePath | None = Field(
        default=None, description="folder on the cluster with wheels/ and base.tar, where nodes have no network"
    )
    rebuild: bool = Field(default=False, description="build it although the one there was made from the same recipe")
    force: bool = Field(default=False, description="replace it although a live deployment serves from it")


class ImageJob(BatchJob):
    """The record of one build or verification."""

    pin: PinName
    action: Action = "build"
    source: RemotePath | None = None
    rebuild: bool = False
    force: bool = False
    stage: str = Field(
        default="", description="where a build is: base, system, packages, compile, test, squash, sign, hash"
    )
    done: int = Field(default=0, description="of what the stage counts: packages, portions of files, MiB")
    of: int = 0
    sha256: str | None = None
    bytes: int | None = None
    seconds: int | None = Field(default=None, description="what the build took, without its time in the queue")
    current: bool = Field(
        default=False, description="there was nothing to do: the one there was made from the same recipe"
    )

    @property
    def subject(self) -> str:
        """One a pin."""
        return self.pin


def job_stem(action: Action, pin: str) -> str:
    """A job's name but for its record's id, so that a job is found again by whoever wants the same."""
    return f"bouchet-image-{action}-{pin}-"


class ImageStatus(FrozenModel):
    """One pin, or one image on the cluster that no pin speaks of."""

    pin: str
    known: bool = Field(default=True, description="whether the project has a pin of this name")
    state: Literal["ready", "outdated", "missing", "unknown"] = Field(
        default="unknown", description="ready: made from the pin as it is now; outdated: from an older one"
    )
    bytes: int | None = None
    sha256: str | None = None
    made_at: datetime | None = None
    vllm: str | None = None
    torch: str | None = None
    cuda: str | None = None
    min_driver: str | None = None
    oci: str | None = Field(default=None, description="the image by digest that it is made from")
    oci_manifest: str | None = Field(
        default=None, description="what that digest was resolved to for the cluster's platform"
    )
    commit: str | None = Field(default=None, description="version of the recipe that it was made from")
    is_default: bool = False
    in_site: bool = Field(default=False, description="whether the site file lists it; only then launches find it")
    models: tuple[str, ...] = Field(default=(), description="of the catalog, those that name it")
    deployments: tuple[str, ...] = Field(default=(), description="live ones that serve from it")


class ImageList(FrozenModel):
    """All of them. problem: why the cluster could not be asked."""

    images: tuple[ImageStatus, ...]
    free_bytes: int | None = None
    problem: str = ""


class RemovedImage(FrozenModel):
    """An image that is there no more."""

    pin: str
    bytes: int
