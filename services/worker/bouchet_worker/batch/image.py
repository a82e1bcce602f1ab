"""Image builds and verifications: a type of batch job, with its files, its placement and its tasks."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence

from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Placement
from bouchet_core.errors import ConfigurationError, LaunchRefusedError, UnknownPinError
from bouchet_core.images import ImageJob, ImagePin, find_pin, job_stem
from bouchet_core.placement import check_arch, image_for
from bouchet_core.store import BatchJobStore, Store
from bouchet_core.tasks import TaskName
from bouchet_core.values import parse_duration

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import SPEC_VERSION

from .submit import BatchJobType, BatchProgress, BatchSubmission

# files of apptainer/ that every image is built with; `commit` holds their version, where it is known
RECIPE_FILES = ("vllm.def", "build.sh", "manifest.py", "oci.py")
COMMIT_FILE = "commit"
BUILD_CPUS, BUILD_MEMORY_GIB = 8, 32
VERIFY_CPUS, VERIFY_MEMORY_GIB = 1, 2
MAX_WALLTIME_S = 4 * 3600


class ImageProgress(BatchProgress):
    """The progress of a build or verification."""

    stage: str = ""
    # files read so far, of how many
    done: int = 0
    of: int = 0
    sha256: str | None = None
    bytes: int | None = None
    seconds: int | None = None
    current: bool = False


def submit_image_job(context: WorkerContext, identity: str) -> str:
    """Submit the image's job, or adopt one that does the same; return a short result for the log."""
    return BatchSubmission(context, IMAGES, identity).submit()


def cancel_image_job(context: WorkerContext, identity: str) -> str:
    """Cancel the image's job; an image that existed before stays."""
    return BatchSubmission(context, IMAGES, identity).cancel()


class ImageJobType(BatchJobType[ImageJob, ImageProgress]):
    """Builds and verifications of one image each."""

    noun = "image"
    program = "image_job.py"
    submit_task = TaskName.IMAGE
    cancel_task = TaskName.CANCEL_IMAGE
    progress_model = ImageProgress
    options = ("source", "rebuild")

    def records(self, store: Store) -> BatchJobStore[ImageJob]:
        """Return the store's image jobs."""
        return store.images

    def job_name_stem(self, record: ImageJob) -> str:
        """Return a name made from action and pin."""
        return job_stem(record.action, record.pin)

    def files(self, record: ImageJob, context: WorkerContext) -> Mapping[str, bytes]:
        """Return spec.json and setup.sh; for a build also the pin's files and those of every image."""
        pin = pin_of(context, record.pin) if record.action == "build" else None
        if pin is not None:
            check_arch(pin.name, context.site)
        files = {
            "spec.json": (json.dumps(_spec(record, pin, context), indent=1, sort_keys=True) + "\n").encode(),
            "setup.sh": "".join(f"{line}\n" for line in context.site.batch_setup_lines).encode(),
        }
        return {**files, **pin.files, **recipe_files(context)} if pin is not None else files

    def placement(self, record: ImageJob, site: Site) -> Placement:
        """Return CPUs of the site's CPU partition."""
        if site.cpu_partition is None:
            raise LaunchRefusedError("the site file has no cpu_partition to build and verify images in: set one")
        partition = site.partition(site.cpu_partition)
        is_build = record.action == "build"
        cpus, memory = (BUILD_CPUS, BUILD_MEMORY_GIB) if is_build else (VERIFY_CPUS, VERIFY_MEMORY_GIB)
        limit = parse_duration(partition.max_walltime) if partition else MAX_WALLTIME_S
        return Placement(
            partition=site.cpu_partition,
            gpus=0,
            gpu_type=site.gpu_type,
            nodes=1,
            # on a small cluster no more than the share of one GPU
            cpus=min(cpus, max(site.cpus_per_gpu, 1)),
            memory_gib=min(memory, max(site.memory_per_gpu_gib, 1)),
            walltime_s=min(limit, MAX_WALLTIME_S),
            account=site.account_for(site.cpu_partition),
            qos=partition.qos if partition else None,
            constraint=partition.constraint if partition else None,
            whole_node=partition.whole_node if partition else False,
            why="the site's partition for image builds",
        )

    def runs_on_login_node(self, record: ImageJob, site: Site) -> bool:
        """Return whether it is a verification at a site that downloads on the login node."""
        return record.action == "verify" and site.download_on == "login"

    def progress_fields(self, progress: ImageProgress) -> Mapping[str, object]:
        """Return all fields of the progress that the record has too."""
        names = ("stage", "done", "of", "sha256", "bytes", "seconds", "current")
        return {name: getattr(progress, name) for name in names}

    def interrupted_advice(self, record: ImageJob) -> str:
        """Return how to start again."""
        return f"partial files were removed; run `bouchet image {record.action} {record.pin}` again"

    def cancelled_message(self, record: ImageJob) -> str:
        """Return what remains of it."""
        return "cancelled by you; partial files were removed"


IMAGES = ImageJobType()


def pin_of(context: WorkerContext, name: str) -> ImagePin:
    """Return the pin of that name. Raises LaunchRefusedError where it was removed since the request."""
    try:
        return find_pin(context.pins_dir, name)
    except UnknownPinError as exc:
        raise LaunchRefusedError(str(exc)) from exc


def recipe_files(context: WorkerContext) -> dict[str, bytes]:
    """Return the files that every image is built with. Raises ConfigurationError when one is missing."""
    try:
        files = {name: (context.recipe_dir / name).read_bytes() for name in RECIPE_FILES}
    except OSError as exc:
        raise ConfigurationError(str(exc.filename), f"cannot be read: {exc.strerror}; run `make up` again") from exc
    commit = context.recipe_dir / COMMIT_FILE
    return {**files, COMMIT_FILE: commit.read_bytes()} if commit.is_file() else files


def image_users(pin: str, context: WorkerContext) -> Sequence[str]:
    """Return the live deployments that serve from the image, or will."""
    return [record.alias for record in context.store.live() if _image_file(record, context) == f"{pin}.sif"]


def _image_file(record: Deployment, context: WorkerContext) -> str | None:
    if record.job is not None and record.job.image is not None:
        return record.job.image
    try:
        return f"{image_for(context.catalog.find(record.model)[1], context.site).pin}.sif"
    except LaunchRefusedError:
        return None


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
        "in_use": [] if record.force else list(image_users(record.pin, context)),
        "signing_key": site.signing_key,
        "apptainer": site.apptainer,
    }
