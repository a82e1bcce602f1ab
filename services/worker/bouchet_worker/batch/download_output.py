"""A download as a job without GPUs: what it is told, where it runs, and its file names. Pure."""

from __future__ import annotations

import json
import posixpath

from bouchet_core.config.site import Site
from bouchet_core.deployments import Placement
from bouchet_core.downloads import Download
from bouchet_core.errors import ConfigurationError, LaunchRefusedError
from bouchet_core.values import parse_duration

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import SPEC_VERSION

PROGRAM = "download.py"
CPUS, MEMORY_GIB = 4, 8
MOST_WALLTIME_S = 24 * 3600


def placement_for(site: Site) -> Placement:
    """A few CPUs of the site's CPU partition. LaunchRefusedError where the site names none."""
    partition = site.partition(site.cpu_partition) if site.cpu_partition else None
    if site.cpu_partition is None:
        raise LaunchRefusedError(
            "the site file names no cpu_partition to download in; name one, or `download_on: login`"
        )
    limit = parse_duration(partition.max_walltime) if partition else MOST_WALLTIME_S
    return Placement(
        partition=site.cpu_partition,
        gpus=0,
        gpu_type=site.gpu_type,
        nodes=1,
        cpus=min(CPUS, partition.cpus_per_node) if partition else CPUS,
        memory_gib=min(MEMORY_GIB, partition.memory_per_node_gib) if partition else MEMORY_GIB,
        walltime_s=min(limit, MOST_WALLTIME_S),
        account=partition.account if partition else None,
        why="where the site downloads models",
    )


def files_for(download: Download, context: WorkerContext) -> dict[str, bytes]:
    """The files of the job's folder, by name. The token is there only where this installation has one."""
    site = context.site
    image = site.image(site.default_image)
    if image is None:
        raise ConfigurationError(site.name, f"default_image {site.default_image!r} is not among its images")
    spec = {
        "version": SPEC_VERSION,
        "job_name": download.job_name,
        "model": download.model,
        "revision": download.revision,
        "endpoint": site.hub_endpoint,
        "root": site.root,
        "models_dir": site.models_dir,
        "image": posixpath.join(site.images_dir, f"{image.pin}.sif"),
        "image_sha256": image.sha256,
        "apptainer": site.apptainer,
        "quota_line": site.quota_line or "",
    }
    files = {
        "spec.json": (json.dumps(spec, indent=1, sort_keys=True) + "\n").encode(),
        "setup.sh": "".join(f"{line}\n" for line in site.setup_lines).encode(),
    }
    return {**files, "token": f"{context.hub_token}\n".encode()} if context.hub_token else files
