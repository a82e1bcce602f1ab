"""The catalog against the site's images, and the images' CUDA against the driver. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bouchet_core.catalog import Catalog
from bouchet_core.doctor import DoctorCheck
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.placement import image_for
from bouchet_core.site import Site

from .findings import Findings

# the oldest driver of each CUDA, by how pins are called; the pins themselves say the same (apptainer/pins)
OLDEST_DRIVER = {"cuda13": 580, "cuda12": 525}

catalog_found = Findings("catalog")
gpus_found = Findings("gpus")


def catalog_checks(catalog: Catalog, site: Site, there: Sequence[str]) -> list[DoctorCheck]:
    """Whether every entry can be served here. there: the models that have a folder in models_dir."""
    refused = []
    for identity, entry in catalog.entries.items():
        try:
            image_for(entry, site)
        except LaunchRefusedError as exc:
            refused.append(f"{identity}: {exc}")
    checks = [
        catalog_found.warn("images", "; ".join(refused), "add the image to the site file, or correct the entry")
        if refused
        else catalog_found.good("images", f"all {len(catalog.entries)} models have one")
    ]
    return [*checks, _aliases(catalog), _models(catalog, site, there)]


def _aliases(catalog: Catalog) -> DoctorCheck:
    owners: dict[str, list[str]] = {}
    for identity, entry in catalog.entries.items():
        owners.setdefault(entry.alias, []).append(identity)
    clashes = [f"{alias} is {' and '.join(ids)}" for alias, ids in owners.items() if len(ids) > 1]
    if clashes:
        return catalog_found.bad("aliases", "; ".join(clashes), "give one of them another alias")
    return catalog_found.good("aliases", "no two models share one")


def _models(catalog: Catalog, site: Site, there: Sequence[str]) -> DoctorCheck:
    count = f"{len(there)} of {len(catalog.entries)} models have a folder in {site.models_dir}"
    default = site.default_model or catalog.default
    if default and default not in there:
        return catalog_found.warn("models", f"{count}; the default is not among them", f"`bouchet download {default}`")
    if not there:
        return catalog_found.warn("models", count, "`bouchet download MODEL` fetches one")
    return catalog_found.good("models", count)


def driver_checks(site: Site, version: str | None, job: str) -> list[DoctorCheck]:
    """The driver that a job found (None: none) against each image's CUDA. job: in words, empty where none has run."""
    needs = {image.pin: _needed(image.pin) for image in site.images}
    wanted = {pin: oldest for pin, oldest in needs.items() if oldest}
    if not wanted:
        return [gpus_found.good("driver", "no image here needs one")]
    if not version:
        said = f"{job} found no NVIDIA driver on its node" if job else "no job has run yet to tell it"
        return [gpus_found.unknown("driver", said, "`bouchet launch` a small model once; its job looks at its node")]
    return [_driver(pin, oldest, version, job) for pin, oldest in wanted.items()]


def _driver(pin: str, oldest: int, version: str, job: str) -> DoctorCheck:
    major = re.match(r"\d+", version)
    if major is None:
        return gpus_found.unknown(f"driver for {pin}", f"{job} saw {version!r}, which is no version")
    seen = f"{job} saw driver {version}; {pin} needs {oldest} or newer"
    if int(major[0]) < oldest:
        return gpus_found.bad(
            f"driver for {pin}", seen, "take an image of an older CUDA (default_image of the site file)"
        )
    return gpus_found.good(f"driver for {pin}", seen)


def _needed(pin: str) -> int | None:
    """The oldest driver, None where no GPU is used."""
    return next((oldest for name, oldest in OLDEST_DRIVER.items() if pin.startswith(name)), None)
