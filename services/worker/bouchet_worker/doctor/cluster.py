"""Checks the cluster, program by program. What one program cannot answer is one check, and the others go on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bouchet_core.config.site import REQUIRED, Partition
from bouchet_core.deployments import Placement
from bouchet_core.doctor import DoctorCheck
from bouchet_core.errors import (
    ClusterUnavailableError,
    GatewayError,
    OutputTooLongError,
    RemoteCommandError,
    SlurmOutputError,
)

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import run_script
from bouchet_worker.slurm.commands import QUERY_TIMEOUT_S, sacct_argv, sbatch_test_only_argv, squeue_argv
from bouchet_worker.slurm.parsing import parse_accounting, parse_queue, parse_start_estimate

from .checks import (
    CheckFactory,
    catalog_checks,
    clock_check,
    driver_checks,
    image_checks,
    image_path,
    storage_checks,
)
from .partitions import (
    SHOW_NODES,
    SHOW_PARTITIONS,
    SHOW_QOS,
    parse_nodes,
    parse_partitions,
    parse_qos,
    partition_checks,
)

TEST_JOB_WALLTIME_S = 600
OLDEST_SLURM = (20, 11)
# how many of the newest records are searched for one with its node's driver
RECORDS = 30
SCRIPT = "probe_login_node.py"
# sbatch refuses because of the user's own jobs, and nothing else
_OWN_JOBS = re.compile(r"MaxSubmitJob|MaxJobs|submit limit", re.I)

_slurm = CheckFactory("slurm")


def check_cluster(context: WorkerContext) -> list[DoctorCheck]:
    """Return every check of the cluster. Raises ClusterUnavailableError without a connection to it."""
    probe = _probe_login_node(context)
    checks = [_version(context), _queue(context), _accounting(context), *_test_jobs(context), *_partitions(context)]
    drivers = driver_checks(context.site, *_newest_driver(context))
    if isinstance(probe, DoctorCheck):
        return [*checks, probe, *drivers]
    checks += [*storage_checks(context.site, probe), clock_check(probe, context.now().timestamp())]
    checks += [*image_checks(context.site, probe), *drivers]
    return [*checks, *catalog_checks(context.catalog, context.site, probe["models"])]


def _run(context: WorkerContext, argv: Sequence[str]) -> str:
    return context.gateway.run(argv, timeout_s=QUERY_TIMEOUT_S).stdout


def _probe_login_node(context: WorkerContext) -> dict[str, Any] | DoctorCheck:
    """Return what probe_login_node.py prints; a failed check when it cannot run."""
    site = context.site
    request = {
        "directories": [path for path in (site.root, site.models_dir, site.images_dir, site.scratch_dir) if path],
        "images": [image_path(site, image) for image in site.images],
        "hashes": context.paths.file_hashes(),
        "models_dir": site.models_dir,
        "models_dirs": list(site.models_dirs),
        "models": list(context.catalog.entries),
        "quota": list(site.quota_command),
    }
    try:
        return run_script(context, SCRIPT, request=request, timeout_s=QUERY_TIMEOUT_S)
    except ClusterUnavailableError:
        raise
    except GatewayError as exc:
        fix = f"check that {site.root} is writable and that the login node has python3 (3.6 or newer)"
        return CheckFactory("storage").failed("login node", str(exc), fix)


def _version(context: WorkerContext) -> DoctorCheck:
    try:
        version = _run(context, ["sinfo", "--version"]).strip()
    except RemoteCommandError as exc:
        return _slurm.failed("version", str(exc), "Slurm's programs must be on the PATH of a login shell")
    numbers = re.search(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return _slurm.unknown("version", f"sinfo --version printed {version!r}")
    if (int(numbers[1]), int(numbers[2])) < OLDEST_SLURM:
        return _slurm.warning("version", version, "older than 20.11, the oldest version that bouchet-llm supports")
    return _slurm.passed("version", version)


def _queue(context: WorkerContext) -> DoctorCheck:
    try:
        rows = parse_queue(_run(context, squeue_argv()))
    except OutputTooLongError:
        return _slurm.passed("squeue", "works; your queue is long, so only bouchet-llm's jobs are listed")
    except (RemoteCommandError, SlurmOutputError) as exc:
        return _slurm.failed("squeue", str(exc), "jobs cannot be followed; report this with the Slurm version")
    return _slurm.passed("squeue", f"works; it lists {len(rows)} of your jobs")


def _accounting(context: WorkerContext) -> DoctorCheck:
    try:
        parse_accounting(_run(context, sacct_argv([1])))
    except (RemoteCommandError, SlurmOutputError) as exc:
        fix = "optional: scontrol shows why a job ended, but only for some minutes"
        return _slurm.warning("accounting", str(exc), fix)
    return _slurm.passed("accounting", "sacct works")


def _test_jobs(context: WorkerContext) -> list[DoctorCheck]:
    """Check whether sbatch would accept a small job in each partition of the automatic selection."""
    return [_test_job(context, partition) for partition in context.site.partitions if partition.auto]


def _test_job(context: WorkerContext, partition: Partition) -> DoctorCheck:
    name = f"sbatch --test-only in {partition.name}"
    site = context.site
    placement = Placement(
        partition=partition.name,
        gpus=1,
        gpu_type=partition.gpu_types[0] if partition.gpu_types else site.gpu_type,
        nodes=1,
        cpus=site.cpus_per_gpu,
        memory_gib=site.memory_per_gpu_gib,
        walltime_s=TEST_JOB_WALLTIME_S,
        account=partition.account or (site.account if site.account != REQUIRED else None),
        qos=partition.qos,
        constraint=partition.constraint,
        gpu_request=site.gpu_request,
        gpu_type_requested=site.gpu_type_requested,
        whole_node=partition.whole_node,
    )
    argv = sbatch_test_only_argv(placement)
    try:
        output = context.gateway.run(argv, stdin="#!/bin/bash\n", timeout_s=QUERY_TIMEOUT_S)
    except RemoteCommandError as exc:
        if _OWN_JOBS.search(exc.stderr):
            return _slurm.passed(name, "accepted later: your own jobs use up your submit limit now")
        fix = "often an account (--account) is missing, or the partition's limits are exceeded"
        return _slurm.warning(name, " ".join(exc.stderr.split()) or str(exc), fix)
    test = parse_start_estimate(output.stderr)
    return _slurm.passed(name, f"a job with one GPU would run on {test.nodes}" if test else "would accept one GPU")


def _partitions(context: WorkerContext) -> list[DoctorCheck]:
    try:
        partitions = parse_partitions(_run(context, SHOW_PARTITIONS))
        nodes = parse_nodes(_run(context, SHOW_NODES))
    except (RemoteCommandError, ValueError) as exc:
        return [CheckFactory("partitions").unknown("partitions", str(exc))]
    try:
        qos = parse_qos(_run(context, SHOW_QOS))
    except RemoteCommandError:
        qos = None
    return partition_checks(context.site, partitions, nodes, qos)


def _newest_driver(context: WorkerContext) -> tuple[str | None, str]:
    """Return the driver that the newest job found on its node, and the job; None and empty when none has run."""
    jobs = [record.job for record in context.store.page(RECORDS, 0)]
    started = [job for job in jobs if job is not None and job.image_sha256 is not None]
    newest = next((job for job in started if job.driver), started[0] if started else None)
    return (newest.driver, f"job {newest.slurm_id}") if newest else (None, "")
