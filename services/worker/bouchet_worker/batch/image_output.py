"""An image's build or verification as a job without GPUs: what it is told, and where it runs."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence

from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Placement
from bouchet_core.errors import ConfigurationError, LaunchRefusedError, UnknownPinError
from bouchet_core.images import ImageJob, ImagePin, find_pin
from bouchet_core.placement import image_for
from bouchet_core.values import parse_duration

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import SPEC_VERSION

PROGRAM = "image_job.py"
# of apptainer/: what every pin is built with; `commit` is the version of all these, where it is known
RECIPE_FILES = ("vllm.def", "build.sh", "manifest.py", "oci.py")
COMMIT = "commit"
CPUS, MEMORY_GIB, MOST_WALLTIME_S = 8, 32, 4 * 3600
VERIFY_CPUS, VERIFY_MEMORY_GIB = 1, 2


def placement_for(record: ImageJob, site: Site) -> Placement:
    """CPUs of the site's CPU partition. LaunchRefusedError where the site names none."""
    if site.cpu_partition is None:
        raise LaunchRefusedError("the site file names no cpu_partition to build and verify images in; name one")
    partition = site.partition(site.cpu_partition)
    cpus, memory = (CPUS, MEMORY_GIB) if record.action == "build" else (VERIFY_CPUS, VERIFY_MEMORY_GIB)
    # nodes as they are asked for: a small cluster gives a build what one GPU's share is
    share = max(site.cpus_per_gpu, 1), max(site.memory_per_gpu_gib, 1)
    return Placement(
        partition=site.cpu_partition,
        gpus=0,
        gpu_type=site.gpu_type,
        nodes=1,
        cpus=min(cpus, share[0]),
        memory_gib=min(memory, share[1]),
        walltime_s=min(parse_duration(partition.max_walltime) if partition else MOST_WALLTIME_S, MOST_WALLTIME_S),
        account=partition.account if partition else None,
        why="where the site builds images",
    )


def files_for(record: ImageJob, context: WorkerContext) -> dict[str, bytes]:
    """The files of the job's folder, by name: what it is told, the pin, and what every pin is built with."""
    pin = pin_of(context, record.pin) if record.action == "build" else None
    files = {
        "spec.json": (json.dumps(_spec(record, pin, context), indent=1, sort_keys=True) + "\n").encode(),
        "setup.sh": "".join(f"{line}\n" for line in context.site.setup_lines).encode(),
    }
    return {**files, **pin.files, **recipe_files(context)} if pin is not None else files


def pin_of(context: WorkerContext, name: str) -> ImagePin:
    """LaunchRefusedError where there is none: it was there when it was asked for."""
    try:
        return find_pin(context.pins_dir, name)
    except UnknownPinError as exc:
        raise LaunchRefusedError(str(exc)) from exc


def recipe_files(context: WorkerContext) -> dict[str, bytes]:
    """What every pin is built with; ConfigurationError when a file is missing."""
    try:
        files = {name: (context.recipe_dir / name).read_bytes() for name in RECIPE_FILES}
    except OSError as exc:
        raise ConfigurationError(str(exc.filename), f"cannot be read: {exc.strerror}; run `make up` again") from exc
    commit = context.recipe_dir / COMMIT
    return {**files, COMMIT: commit.read_bytes()} if commit.is_file() else files


def _spec(record: ImageJob, pin: ImagePin | None, context: WorkerContext) -> dict[str, object]:
    site = context.site
    listed = site.image(record.pin)
    staged = posixpath.join(site.staged_images, record.pin) if site.staged_images else None
    return {
        "version": SPEC_VERSION,
        "job_name": record.job_name,
        "action": record.action,
        "pin": record.pin,
        "root": site.root,
        "models_dir": site.models_dir,
        "images_dir": site.images_dir,
        "image": posixpath.join(site.images_dir, f"{record.pin}.sif"),
        "image_sha256": listed.sha256 if listed else None,
        "source": record.source,
        "staged": staged,
        "oci": pin.oci if pin else None,
        "build_dir": site.build_dir,
        "build_gib": pin.build_gib if pin else 0,
        "image_gib": pin.image_gib if pin else 0,
        "rebuild": record.rebuild,
        "in_use": [] if record.force else list(users_of(record.pin, context)),
        "signing_key": site.signing_key,
        "apptainer": site.apptainer,
    }


def users_of(pin: str, context: WorkerContext) -> Sequence[str]:
    """The live deployments that serve from the image, or will."""
    return [record.alias for record in context.store.live() if _image_of(record, context) == f"{pin}.sif"]


def _image_of(record: Deployment, context: WorkerContext) -> str | None:
    if record.job is not None and record.job.image is not None:
        return record.job.image
    try:
        return f"{image_for(context.catalog.find(record.model)[1], context.site).pin}.sif"
    except LaunchRefusedError:
        return None
