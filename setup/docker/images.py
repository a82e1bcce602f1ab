"""Images: what goes into each, and building those whose inputs changed.

After a build the image gets a second tag, `inputs-<digest>`. While that tag names the same image as the one that
Compose uses, nothing has to be built, and the builder is not called.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from setup.command import run, try_run
from setup.progress import Step

from .engine import Compose

NOT_INPUTS = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules", "build", "dist"})
COMMON = ("Dockerfile", ".dockerignore", "setup/image")
# what images for the cluster are built with, and the version of these
RECIPE = tuple(f"apptainer/{name}" for name in ("vllm.def", "build.sh", "manifest.py", "oci.py", "commit"))
MARKER = ":inputs-"
# Compose service -> files and folders that its image is made of
SERVICE_INPUTS: Mapping[str, tuple[str, ...]] = {
    "redis": COMMON,
    "gateway": (*COMMON, "core", "services/gateway", "remote"),
    "worker": (*COMMON, "core", "services/worker", "remote", *RECIPE),
    "api": (*COMMON, "core", "services/api"),
    "proxy": (*COMMON, "core", "services/proxy"),
    "notifier": (*COMMON, "core", "services/notifier"),
    "prometheus": (*COMMON, "deploy/prometheus"),
}
DEMO_INPUTS: Mapping[str, tuple[str, ...]] = {"demo-keys": ("demo/cluster",)}


@dataclass(frozen=True)
class BuiltImage:
    """An image that we build: the Compose service that builds it, its name, and its inputs' digest."""

    service: str
    name: str
    digest: str

    @property
    def marker(self) -> str:
        """The tag that says what it was built from."""
        return f"{self.name.rsplit(':', 1)[0]}{MARKER}{self.digest}"


def find_images(compose: Compose, root: Path, inputs: Mapping[str, tuple[str, ...]], base: str) -> list[BuiltImage]:
    """Return all images of the Compose files that we build; `base` identifies the base image."""
    names = image_names(compose)
    return [
        BuiltImage(service, names[service], digest_of(root, paths, base))
        for service, paths in inputs.items()
        if service in names
    ]


def image_names(compose: Compose) -> dict[str, str]:
    """Map service to image name, for services with a build section."""
    services = json.loads(compose.run("config", "--format", "json"))["services"]
    return {name: service["image"] for name, service in services.items() if "build" in service}


def digest_of(root: Path, paths: Iterable[str], base: str) -> str:
    """Compute 16 hex digits over the files' names, modes and contents."""
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


def list_tags() -> dict[str, str]:
    """Map the name of each image of the engine, `repository:tag`, to its id."""
    listing = run(["docker", "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
    return dict(line.split(" ", 1) for line in listing.splitlines() if " " in line)


def ids_in_use() -> set[str]:
    """Return the ids of the images that containers have, stopped ones too, of whatever project."""
    containers = run(["docker", "ps", "--all", "--no-trunc", "--quiet"]).split()
    # one that went away meanwhile is an error for all of them
    found = [try_run(["docker", "inspect", "--format", "{{.Image}}", container]) for container in containers]
    return {image.strip() for image in found if image}


def find_stale(images: Iterable[BuiltImage]) -> list[BuiltImage]:
    """Select the images that do not exist or were built from other files."""
    wanted = list(images)
    ids = list_tags()
    return [image for image in wanted if image.name not in ids or ids.get(image.marker) != ids[image.name]]


def reuse_known(stale: Iterable[BuiltImage]) -> list[BuiltImage]:
    """Give images that were built from the same inputs before their names again; return those that must be built."""
    tags = list_tags()
    unknown = []
    for image in stale:
        if image.marker in tags:
            run(["docker", "image", "tag", image.marker, image.name])
        else:
            unknown.append(image)
    return unknown


def build(step: Step, compose: Compose, stale: list[BuiltImage]) -> None:
    """Build the images in parallel, and tag them with their inputs."""
    services = [image.service for image in stale]
    step.say(f"building {', '.join(services)}")
    compose.run("--progress", "plain", "build", *services, on_line=lambda line: step.say(line[-60:]))
    for image in stale:
        run(["docker", "image", "tag", image.name, image.marker])


def prune(images: Iterable[BuiltImage]) -> None:
    """Remove the tags of older inputs, and with them the images, unless another stack has them.

    Only after a start no container of this stack uses them.
    """
    repositories = {image.marker.rsplit(":", 1)[0] for image in images}
    for name in spare_markers(list_tags(), repositories, ids_in_use()):
        try_run(["docker", "image", "rm", name])


def spare_markers(tags: Mapping[str, str], repositories: Collection[str], in_use: Collection[str]) -> list[str]:
    """Select the input tags in `repositories` whose image has no name and no container."""
    ours = {name: image for name, image in tags.items() if name.rsplit(":", 1)[0] in repositories}
    named = {image for name, image in ours.items() if MARKER not in name}
    return [name for name, image in ours.items() if MARKER in name and image not in named and image not in in_use]
