"""Images: what goes into each, and building those whose inputs changed.

After a build the image gets a second tag, `inputs-<digest>`. While that tag names the same image as the one that
Compose uses, nothing has to be built, nor asked of the builder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from setup.command import run, try_run
from setup.progress import Step

from .compose import Compose

NOT_INPUTS = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules", "build", "dist"})
COMMON = ("Dockerfile", ".dockerignore", "setup/image")
# what images for the cluster are built with, and the version of these
RECIPE = tuple(f"apptainer/{name}" for name in ("vllm.def", "build.sh", "manifest.py", "oci.py", "commit"))
# Compose service -> files and folders that its image is made of
ROOM_INPUTS: Mapping[str, tuple[str, ...]] = {
    "redis": ("Dockerfile", ".dockerignore", "setup/image"),
    "gateway": (*COMMON, "core", "services/gateway"),
    "worker": (*COMMON, "core", "services/worker", "remote", *RECIPE),
    "api": (*COMMON, "core", "services/api"),
    "proxy": (*COMMON, "core", "services/proxy"),
}
DEMO_INPUTS: Mapping[str, tuple[str, ...]] = {"demo-keys": ("demo/cluster",)}


@dataclass(frozen=True)
class Image:
    """An image that we build: the Compose service that builds it, its name, and its inputs' digest."""

    service: str
    name: str
    digest: str

    @property
    def marker(self) -> str:
        """The tag that says what it was built from."""
        return f"{self.name.rsplit(':', 1)[0]}:inputs-{self.digest}"


def find_images(compose: Compose, root: Path, inputs: Mapping[str, tuple[str, ...]], base: str) -> list[Image]:
    """All images of the Compose files that we build; `base` is the base image's id."""
    names = image_names(compose)
    return [
        Image(service, names[service], digest_of(root, paths, base))
        for service, paths in inputs.items()
        if service in names
    ]


def image_names(compose: Compose) -> dict[str, str]:
    """Service to image name, of the services that have a build section."""
    services = json.loads(compose.run("config", "--format", "json"))["services"]
    return {name: service["image"] for name, service in services.items() if "build" in service}


def digest_of(root: Path, paths: Iterable[str], base: str) -> str:
    """16 hex digits over the files' names, modes and contents."""
    summary = hashlib.sha256(base.encode())
    for path in paths:
        for file in sorted(_files_under(root / path)):
            executable = "x" if os.access(file, os.X_OK) else "-"
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            summary.update(f"{file.relative_to(root)} {executable} {content}\n".encode())
    return summary.hexdigest()[:16]


def _files_under(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in NOT_INPUTS and not name.endswith(".egg-info")]
        found += [Path(folder) / name for name in names]
    return found


def image_ids(names: Iterable[str]) -> dict[str, str]:
    """Name to id, of those images that exist."""
    wanted = list(names)
    listing = run(["docker", "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
    known = dict(line.split(" ", 1) for line in listing.splitlines() if " " in line)
    return {name: known[name] for name in wanted if name in known}


def find_stale(images: Iterable[Image]) -> list[Image]:
    """Those that are not there, or were built of other files."""
    wanted = list(images)
    ids = image_ids([name for image in wanted for name in (image.name, image.marker)])
    return [image for image in wanted if image.name not in ids or ids.get(image.marker) != ids[image.name]]


def build(step: Step, compose: Compose, stale: list[Image]) -> None:
    """Build them, all at once, and mark them."""
    services = [image.service for image in stale]
    step.say(f"building {', '.join(services)}")
    compose.run("--progress", "plain", "build", *services, on_line=lambda line: step.say(line[-60:]))
    for image in stale:
        run(["docker", "image", "tag", image.name, image.marker])


def prune(images: Iterable[Image]) -> None:
    """Remove the tags of older inputs, and with them the images; only after a start is no container left on them."""
    current = {image.marker for image in images}
    repositories = {marker.rsplit(":", 1)[0] for marker in current}
    listing = run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).split()
    markers = [name for name in listing if ":inputs-" in name and name.rsplit(":", 1)[0] in repositories]
    for name in set(markers) - current:
        try_run(["docker", "image", "rm", name])  # another stack may still run on it
