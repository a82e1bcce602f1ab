"""Checks of storage, clock, images, GPU drivers and catalog, from what was read on the login node. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bouchet_core.config.catalog import Catalog
from bouchet_core.config.site import Site, SiteImage
from bouchet_core.doctor import DoctorCheck, Verdict
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.placement import image_for

# what probe_login_node.py prints
ProbeResult = Mapping[str, Any]

GIB = 1 << 30
# enough for logs, compiled kernels and the job's files; models need more
LOW_SPACE = 5 * GIB
NO_SPACE = GIB
QUOTA_WARNING_PERCENT = 90
CLOCK_SKEW_S = 60.0
# oldest driver by the CUDA in a pin's name; the pins contain the same numbers (apptainer/pins)
OLDEST_DRIVER = {"cuda13": 580, "cuda12": 525}

_FREE_SPACE = "delete what you do not need (old models, logs), or ask for a larger quota"


class CheckFactory:
    """Makes the checks of one area."""

    def __init__(self, area: str) -> None:
        self._area = area

    def passed(self, name: str, message: str) -> DoctorCheck:
        """Return a check of what is fine."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.PASS, message=message)

    def warning(self, name: str, message: str, fix: str) -> DoctorCheck:
        """Return a check of what works but may cause trouble."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.WARN, message=message, fix=fix)

    def failed(self, name: str, message: str, fix: str) -> DoctorCheck:
        """Return a check of what does not work."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.FAIL, message=message, fix=fix)

    def unknown(self, name: str, message: str, fix: str = "") -> DoctorCheck:
        """Return a check of what could not be checked."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.UNKNOWN, message=message, fix=fix)


_storage = CheckFactory("storage")
_images = CheckFactory("images")
_gpus = CheckFactory("gpus")
_catalog = CheckFactory("catalog")


def _size(count: int) -> str:
    size = count / GIB
    return f"{size:.0f} GiB" if size >= 10 else f"{size:.1f} GiB"


# storage and clock


def storage_checks(site: Site, probe: ProbeResult) -> list[DoctorCheck]:
    """Check the site's directories, and the quota when the site file has a command for it."""
    named = (
        ("root", site.root), ("models_dir", site.models_dir), ("images_dir", site.images_dir),
        ("scratch_dir", site.scratch_dir),
    )  # fmt: skip
    checks = [_directory(name, path, probe["directories"][path]) for name, path in named if path]
    return [*checks, _quota(site, str(probe["quota"]), probe.get("quota_left"))]


def clock_check(probe: ProbeResult, now_s: float) -> DoctorCheck:
    """Compare the login node's clock with ours: Slurm's times are compared with ours elsewhere."""
    skew = float(probe["time"]) - now_s
    if abs(skew) > CLOCK_SKEW_S:
        message = f"the login node's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        return _storage.warning("clock", message, "set this machine's clock; ages and estimates are off by that much")
    return _storage.passed("clock", f"within {abs(skew):.0f} s of the login node's (Python {probe['python']} there)")


def _directory(name: str, path: str, state: ProbeResult) -> DoctorCheck:
    label = f"{name} {path}"
    if "free" not in state:
        return _storage.failed(label, str(state.get("error", "cannot be read")), f"correct {name} in the site file")
    free = f"{_size(state['free'])} of {_size(state['total'])} free"
    if not state["exists"]:
        if not state["writable"]:
            fix = f"create it, or correct {name} in the site file"
            return _storage.failed(label, f"does not exist, and {state['nearest']} is not writable", fix)
        return _storage.warning(label, f"does not exist yet; {free}", "it is created when it is first needed")
    # models and images may be shared folders that other people fill
    if not state["writable"] and name not in ("models_dir", "images_dir"):
        return _storage.failed(label, "is not writable", f"`chmod u+rwx` it, or correct {name} in the site file")
    if state["free"] < NO_SPACE:
        return _storage.failed(label, free, _FREE_SPACE)
    if state["free"] < LOW_SPACE:
        return _storage.warning(label, free, _FREE_SPACE)
    if name == "root" and state.get("exposed"):
        return _storage.warning(
            label, f"other users can replace it: {state['exposed']}", "`chmod go-w` it, or use a folder of your own"
        )
    return _storage.passed(label, free if state["writable"] else f"{free}; read-only")


def _quota(site: Site, output: str, left: int | None) -> DoctorCheck:
    """Judge what the quota command printed. left: bytes left below models_dir, where the output gives them."""
    if not site.quota_command:
        return _storage.unknown("quota", "the site file has no quota_command", "only free space is checked")
    if left is not None:
        message = f"{_size(left)} left below {site.models_dir}"
        return (
            _storage.warning("quota", message, _FREE_SPACE) if left < LOW_SPACE else _storage.passed("quota", message)
        )
    lines = [" ".join(line.split()) for line in output.splitlines() if re.search(r"\d", line)]
    if not lines:
        return _storage.unknown("quota", f"`{' '.join(site.quota_command)}` printed no numbers: {output or 'nothing'}")
    full = [line for line in lines if any(float(p) >= QUOTA_WARNING_PERCENT for p in _percentages(line))]
    if full:
        return _storage.warning("quota", "; ".join(full), _FREE_SPACE)
    return _storage.passed("quota", "; ".join(lines[:4]))


def _percentages(line: str) -> list[str]:
    return re.findall(r"(\d+(?:\.\d+)?)%", line)


# images


def image_path(site: Site, image: SiteImage) -> str:
    """Return the path of the image's file."""
    return posixpath.join(site.images_dir, f"{image.pin}.sif")


def image_checks(site: Site, probe: ProbeResult) -> Iterator[DoctorCheck]:
    """Check that each pinned image is readable and has its hash. Jobs hash the file itself, not the doctor."""
    for image in site.images:
        path = image_path(site, image)
        yield _image(image, path, probe["images"][path], needed=image.pin == site.default_image)


def _image(image: SiteImage, path: str, state: ProbeResult, *, needed: bool) -> DoctorCheck:
    problem = _images.failed if needed else _images.warning
    if not state["exists"] or not state.get("readable"):
        message = f"{path} {'is not readable' if state['exists'] else 'does not exist'}"
        return problem(image.pin, message, f"build it with `bouchet image build {image.pin}`")
    fix = f"jobs reject it; build it again with `bouchet image build {image.pin} --rebuild`"
    pinned, computed = image.sha256 or state["recorded"], state["computed"]
    if pinned is None:
        return problem(image.pin, f"{path} has no recorded hash", fix)
    if computed is not None and computed != pinned:
        return problem(image.pin, f"its sha256 is {computed[:12]}..., recorded is {pinned[:12]}...", fix)
    source = "computed by a job" if computed else "recorded; a job computes it before the first use"
    return _images.passed(image.pin, f"vLLM {image.vllm}, {_size(state['size'])}, sha256 {pinned[:12]}... ({source})")


# GPU drivers


def driver_checks(site: Site, version: str | None, job: str) -> list[DoctorCheck]:
    """Compare a node's driver with each image's CUDA.

    version: what a job found, None without one; job: describes that job, empty when none has run.
    """
    oldest = {image.pin: _oldest_driver(image.pin) for image in site.images}
    needed = {pin: driver for pin, driver in oldest.items() if driver}
    if not needed:
        return [_gpus.passed("driver", "no image here needs a GPU driver")]
    if not version:
        message = f"{job} found no NVIDIA driver on its node" if job else "not known before a job has run"
        return [_gpus.unknown("driver", message, "launch a small model once with `bouchet launch`; its job reads it")]
    return [_driver(pin, driver, version, job) for pin, driver in needed.items()]


def _driver(pin: str, oldest: int, version: str, job: str) -> DoctorCheck:
    major = re.match(r"\d+", version)
    if major is None:
        return _gpus.unknown(f"driver for {pin}", f"{job} found driver {version!r}, which is not a version")
    message = f"{job} found driver {version}; {pin} needs {oldest} or newer"
    if int(major[0]) < oldest:
        fix = "use an image for an older CUDA (default_image in the site file)"
        return _gpus.failed(f"driver for {pin}", message, fix)
    return _gpus.passed(f"driver for {pin}", message)


def _oldest_driver(pin: str) -> int | None:
    """Return the oldest driver that the pin works with, None when it uses no GPU."""
    return next((oldest for name, oldest in OLDEST_DRIVER.items() if pin.startswith(name)), None)


# catalog


def catalog_checks(catalog: Catalog, site: Site, present: Sequence[str]) -> list[DoctorCheck]:
    """Check that every entry can be served here. present: the models that have a folder in models_dir."""
    return [_catalog_images(catalog, site), _aliases(catalog), _models(catalog, site, present)]


def _catalog_images(catalog: Catalog, site: Site) -> DoctorCheck:
    refused: dict[str, list[str]] = {}
    for model, entry in catalog.entries.items():
        try:
            image_for(entry, site)
        except LaunchRefusedError as exc:
            refused.setdefault(str(exc), []).append(model)
    if refused:
        problems = [f"{', '.join(models)}: {problem}" for problem, models in refused.items()]
        return _catalog.warning("images", "; ".join(problems), "add the image to the site file, or correct the entry")
    return _catalog.passed("images", f"all {len(catalog.entries)} models have an image")


def _aliases(catalog: Catalog) -> DoctorCheck:
    owners: dict[str, list[str]] = {}
    for model, entry in catalog.entries.items():
        owners.setdefault(entry.alias, []).append(model)
    clashes = [f"{alias} is {' and '.join(models)}" for alias, models in owners.items() if len(models) > 1]
    if clashes:
        return _catalog.failed("aliases", "; ".join(clashes), "give one of them another alias")
    return _catalog.passed("aliases", "all aliases are different")


def _models(catalog: Catalog, site: Site, present: Sequence[str]) -> DoctorCheck:
    count = f"{len(present)} of {len(catalog.entries)} models have a folder in {site.models_dir}"
    default = site.default_model or catalog.default
    if default and default not in present:
        message = f"{count}; the default model is missing"
        return _catalog.warning("models", message, f"`bouchet download {default}`")
    if not present:
        return _catalog.warning("models", count, "download one with `bouchet download MODEL`")
    return _catalog.passed("models", count)
