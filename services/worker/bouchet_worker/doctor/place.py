"""Directories, space, quota and images, as probe_login_node.py saw them on the login node. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bouchet_core.doctor import DoctorCheck
from bouchet_core.site import Site, SiteImage

from .findings import Findings, gib

Seen = Mapping[str, Any]
GIB = 1 << 30
# logs, compiled kernels and the job's files want this much, models more
LITTLE = 5 * GIB
NONE_LEFT = GIB
NEARLY_FULL_PERCENT = 90
SKEW_S = 60.0

storage = Findings("storage")
images = Findings("images")


def image_path(site: Site, image: SiteImage) -> str:
    """Where its file is."""
    return posixpath.join(site.images_dir, f"{image.pin}.sif")


def storage_checks(site: Site, seen: Seen) -> list[DoctorCheck]:
    """The site's directories, and the quota where its command is known."""
    named = (
        ("root", site.root), ("models_dir", site.models_dir), ("images_dir", site.images_dir),
        ("scratch_dir", site.scratch_dir),
    )  # fmt: skip
    checks = [_directory(name, path, seen["directories"][path]) for name, path in named if path]
    return [*checks, _quota(site, str(seen["quota"]))]


def clock_check(seen: Seen, now_s: float) -> DoctorCheck:
    """Slurm's times are compared with ours."""
    skew = float(seen["time"]) - now_s
    said = f"the login node's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) > SKEW_S:
        return storage.warn("clock", said, "set this machine's clock; ages and estimates are off by that much")
    return storage.good("clock", f"within {abs(skew):.0f} s of the login node's (Python {seen['python']} there)")


def _directory(name: str, path: str, seen: Seen) -> DoctorCheck:
    label = f"{name} {path}"
    if "free" not in seen:
        return storage.bad(label, str(seen.get("error", "cannot be read")), f"correct {name} in the site file")
    free = f"{gib(seen['free'])} of {gib(seen['total'])} free"
    if not seen["exists"]:
        if not seen["writable"]:
            fix = f"make it, or correct {name} in the site file"
            return storage.bad(label, f"is not there, and {seen['nearest']} may not be written", fix)
        return storage.warn(label, f"is not there yet; {free}", "it is made when it is first needed")
    # models and images may be shared folders that others fill
    if not seen["writable"] and name not in ("models_dir", "images_dir"):
        return storage.bad(label, "may not be written", f"`chmod u+rwx` it, or correct {name} in the site file")
    if seen["free"] < NONE_LEFT:
        return storage.bad(label, free, "delete what is not needed (old models, logs), or ask for more")
    if seen["free"] < LITTLE:
        return storage.warn(label, free, "delete what is not needed (old models, logs), or ask for more")
    return storage.good(label, free if seen["writable"] else f"{free}; read only")


def _quota(site: Site, said: str) -> DoctorCheck:
    if not site.quota_command:
        return storage.unknown("quota", "the site file names no quota_command", "free space is all that is known")
    lines = [" ".join(line.split()) for line in said.splitlines() if re.search(r"\d", line)]
    if not lines:
        return storage.unknown("quota", f"`{' '.join(site.quota_command)}` says nothing: {said or 'no output'}")
    full = [
        line for line in lines if any(float(p) >= NEARLY_FULL_PERCENT for p in re.findall(r"(\d+(?:\.\d+)?)%", line))
    ]
    if full:
        return storage.warn("quota", "; ".join(full), "delete what is not needed, or ask for more")
    return storage.good("quota", "; ".join(lines[:4]))


def image_checks(site: Site, seen: Seen) -> Iterator[DoctorCheck]:
    """Each pinned image: there, readable, and its hash. The file itself is hashed by jobs, not here."""
    for image in site.images:
        path = image_path(site, image)
        yield _image(image, path, seen["images"][path], needed=image.pin == site.default_image)


def _image(image: SiteImage, path: str, seen: Seen, *, needed: bool) -> DoctorCheck:
    make = images.bad if needed else images.warn
    if not seen["exists"] or not seen.get("readable"):
        said = "is not there" if not seen["exists"] else "may not be read"
        return make(image.pin, f"{path} {said}", f"`bouchet image build {image.pin}` builds it")
    anew = f"`bouchet image build {image.pin} --rebuild` makes it anew"
    pinned, computed = image.sha256 or seen["recorded"], seen["computed"]
    if pinned is None:
        return make(image.pin, f"{path} has no recorded hash", f"jobs refuse it so; {anew}")
    if computed is not None and computed != pinned:
        said = f"its sha256 is {computed[:12]}..., recorded is {pinned[:12]}..."
        return make(image.pin, said, f"jobs refuse it so; {anew}")
    proof = "as a job computed it" if computed else "recorded; a job computes it before its first use"
    return images.good(image.pin, f"vLLM {image.vllm}, {gib(seen['size'])}, sha256 {pinned[:12]}... ({proof})")
