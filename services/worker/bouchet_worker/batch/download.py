"""Model downloads: a type of batch job, with its files, its placement and its tasks."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping

from bouchet_core.batch_jobs import Download, job_name_of
from bouchet_core.config.site import Site
from bouchet_core.deployments import Placement
from bouchet_core.errors import ConfigurationError, LaunchRefusedError, UnknownModelError
from bouchet_core.store import BatchJobStore, Store
from bouchet_core.tasks import TaskName
from bouchet_core.values import parse_duration

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import SPEC_VERSION

from .submit import BatchJobType, BatchProgress, BatchSubmission

CPUS = 4
MEMORY_GIB = 8
MAX_WALLTIME_S = 24 * 3600


class DownloadProgress(BatchProgress):
    """The progress of a download. Sizes in bytes, rate in bytes per second."""

    commit: str | None = None
    bytes: int = 0
    total_bytes: int | None = None
    files: int = 0
    total_files: int | None = None
    rate: int = 0


def submit_download(context: WorkerContext, identity: str) -> str:
    """Submit the download's job, or adopt one that downloads the same model; return a short result for the log."""
    return BatchSubmission(context, DOWNLOADS, identity).submit()


def cancel_download(context: WorkerContext, identity: str) -> str:
    """Cancel the download's job; downloaded files are kept. The record ends when the job has."""
    return BatchSubmission(context, DOWNLOADS, identity).cancel()


class DownloadJobType(BatchJobType[Download, DownloadProgress]):
    """Downloads of one model each, from the hub into the models folder."""

    noun = "download"
    program = "download.py"
    submit_task = TaskName.DOWNLOAD
    cancel_task = TaskName.CANCEL_DOWNLOAD
    follow_up_task = TaskName.LIST_MODELS
    progress_model = DownloadProgress
    options = ("revision",)

    def records(self, store: Store) -> BatchJobStore[Download]:
        """Return the store's downloads."""
        return store.downloads

    def job_name_stem(self, record: Download) -> str:
        """Return a name made from the model."""
        return job_name_of(record.model, "")

    def files(self, record: Download, context: WorkerContext) -> Mapping[str, bytes]:
        """Return spec.json and setup.sh, and `token` where this installation has one for the hub."""
        site = context.site
        image = site.image(site.default_image)
        if image is None:
            raise ConfigurationError(site.name, f"default_image {site.default_image!r} is not one of its images")
        spec = {
            "version": SPEC_VERSION,
            "job_name": record.job_name,
            "model": record.model,
            "revision": record.revision,
            "endpoint": site.hub_endpoint,
            "root": site.root,
            "models_dir": site.models_dir,
            "image": posixpath.join(site.images_dir, f"{image.pin}.sif"),
            "image_sha256": image.sha256,
            "apptainer": site.apptainer,
            "quota_command": list(site.quota_command),
            **({"for_group": True} if site.downloads_for == "group" else {}),
        }
        files = {
            "spec.json": (json.dumps(spec, indent=1, sort_keys=True) + "\n").encode(),
            "setup.sh": "".join(f"{line}\n" for line in site.batch_setup_lines).encode(),
        }
        return {**files, "token": f"{context.hub_token}\n".encode()} if context.hub_token else files

    def placement(self, record: Download, site: Site) -> Placement:
        """Return a few CPUs of the site's CPU partition."""
        partition = site.partition(site.cpu_partition) if site.cpu_partition else None
        if site.cpu_partition is None:
            raise LaunchRefusedError(
                "the site file has no cpu_partition to download in: set one, or `download_on: login`"
            )
        limit = parse_duration(partition.max_walltime) if partition else MAX_WALLTIME_S
        return Placement(
            partition=site.cpu_partition,
            gpus=0,
            gpu_type=site.gpu_type,
            nodes=1,
            cpus=min(CPUS, partition.cpus_per_node) if partition else CPUS,
            memory_gib=min(MEMORY_GIB, partition.memory_per_node_gib) if partition else MEMORY_GIB,
            walltime_s=min(limit, MAX_WALLTIME_S),
            account=site.account_for(site.cpu_partition),
            qos=partition.qos if partition else None,
            constraint=partition.constraint if partition else None,
            whole_node=partition.whole_node if partition else False,
            why="the site's partition for downloads",
        )

    def runs_on_login_node(self, record: Download, site: Site) -> bool:
        """Return whether the site downloads on the login node."""
        return site.download_on == "login"

    def progress_fields(self, progress: DownloadProgress) -> Mapping[str, object]:
        """Return sizes, rate and time left; the commit only once it is known, so that a later run keeps it."""
        left = (progress.total_bytes or 0) - progress.bytes
        fields: dict[str, object] = {
            "bytes": progress.bytes,
            "total_bytes": progress.total_bytes,
            "files": progress.files,
            "total_files": progress.total_files,
            "rate": progress.rate,
            "eta_s": left // progress.rate if progress.rate > 0 and left > 0 else None,
        }
        return {**fields, "commit": progress.commit} if progress.commit else fields

    def queued_fields(self) -> Mapping[str, object]:
        """Return no rate: nothing is transferred while the job waits."""
        return {"rate": 0, "eta_s": None}

    def interrupted_advice(self, record: Download) -> str:
        """Return how to resume the download."""
        revision = "" if record.revision == "main" else f" --revision {record.revision}"
        return f"downloaded files are kept; run `bouchet download {record.model}{revision}` to resume"

    def cancelled_message(self, record: Download) -> str:
        """Return whether files are kept."""
        return "cancelled by you" + ("; downloaded files are kept" if record.bytes else "")

    def add_hint(self, context: WorkerContext, record: Download, progress: DownloadProgress) -> DownloadProgress:
        """Suggest a similar model of the catalog where the hub has none of that name."""
        if progress.kind != "unknown_model":
            return progress
        try:
            context.catalog.find(record.model)
        except UnknownModelError as exc:
            if exc.near:
                return progress.model_copy(update={"sentence": f"{progress.sentence}; did you mean {exc.near[0]}?"})
        return progress


DOWNLOADS = DownloadJobType()
