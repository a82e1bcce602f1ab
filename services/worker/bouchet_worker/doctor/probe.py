"""Asks the cluster, program by program. What one of them cannot say is one check's unknown, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from bouchet_core.deployments import Placement
from bouchet_core.doctor import DoctorCheck
from bouchet_core.errors import ClusterUnavailableError, GatewayError, RemoteCommandError, SlurmOutputError
from bouchet_core.site import Partition

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import stage_scripts
from bouchet_worker.slurm import commands as slurm

from .findings import Findings
from .models import catalog_checks, driver_checks
from .partitions import (
    SHOW_NODES,
    SHOW_PARTITIONS,
    SHOW_QOS,
    parse_nodes,
    parse_partitions,
    parse_qos,
    partition_checks,
)
from .place import clock_check, image_checks, image_path, storage_checks

LOOK_TIMEOUT_S = 20.0
TRIAL_S = 600
OLDEST_SLURM = (20, 11)
# newest records first: so many are looked at for one that knows its driver
RECORDS = 30
SCRIPT = "probe_login_node.py"
# the user's own jobs are in the way, and nothing else
_FULL = re.compile(r"MaxSubmitJob|MaxJobs|submit limit", re.I)

found = Findings("slurm")


def look_round(context: WorkerContext) -> list[DoctorCheck]:
    """Every check of the cluster's side. ClusterUnavailableError where there is no way to it."""
    seen = _seen(context)
    checks = [_version(context), _queue(context), _accounting(context), *_trials(context), *_partitions(context)]
    if isinstance(seen, DoctorCheck):
        return [*checks, seen, *driver_checks(context.site, *_driver(context))]
    checks += [*storage_checks(context.site, seen), clock_check(seen, context.now().timestamp())]
    checks += [*image_checks(context.site, seen), *driver_checks(context.site, *_driver(context))]
    return [*checks, *catalog_checks(context.catalog, context.site, seen["models"])]


def _ask(context: WorkerContext, argv: Sequence[str], stdin: str | None = None) -> str:
    return context.gateway.run(argv, stdin=stdin, timeout_s=LOOK_TIMEOUT_S).stdout


def _seen(context: WorkerContext) -> dict[str, Any] | DoctorCheck:
    """What probe_login_node.py says; a failed check where it cannot run."""
    site = context.site
    request = {
        "directories": [path for path in (site.root, site.models_dir, site.images_dir, site.scratch_dir) if path],
        "images": [image_path(site, image) for image in site.images],
        "hashes": f"{site.root}/cache/hashes",
        "models_dir": site.models_dir,
        "models": list(context.catalog.entries),
        "quota": list(site.quota_command),
    }
    program = f"{context.layout.scripts(context.scripts.digest)}/{SCRIPT}"
    try:
        stage_scripts(context)
        answer: dict[str, Any] = json.loads(_ask(context, ["python3", program], json.dumps(request)))
    except ClusterUnavailableError:
        raise
    except (GatewayError, ValueError) as exc:
        fix = f"see that {site.root} can be written and that python3 (3.6 or newer) is on the login node"
        return Findings("storage").bad("login node", f"{exc}", fix)
    return answer


def _version(context: WorkerContext) -> DoctorCheck:
    try:
        said = _ask(context, ["sinfo", "--version"]).strip()
    except RemoteCommandError as exc:
        return found.bad("version", str(exc), "Slurm's programs must be on the PATH of a login shell's commands")
    numbers = re.search(r"(\d+)\.(\d+)", said)
    if numbers is None:
        return found.unknown("version", f"sinfo calls it {said!r}")
    if (int(numbers[1]), int(numbers[2])) < OLDEST_SLURM:
        return found.warn("version", said, "older than what bouchet-llm was read against (20.11)")
    return found.good("version", said)


def _queue(context: WorkerContext) -> DoctorCheck:
    try:
        rows = slurm.parse_queue(_ask(context, slurm.squeue_argv()))
    except (RemoteCommandError, SlurmOutputError) as exc:
        return found.bad("squeue", str(exc), "without it no job can be followed; report this with the Slurm version")
    return found.good("squeue", f"prints what is needed; {len(rows)} of your jobs are there")


def _accounting(context: WorkerContext) -> DoctorCheck:
    try:
        slurm.parse_accounting(_ask(context, slurm.sacct_argv([1])))
    except (RemoteCommandError, SlurmOutputError) as exc:
        fix = "nothing need be done: why a job ended is asked of scontrol, which forgets it after some minutes"
        return found.warn("accounting", str(exc), fix)
    return found.good("accounting", "sacct answers")


def _trials(context: WorkerContext) -> list[DoctorCheck]:
    """Whether sbatch would take a small job in each partition that may be chosen unasked."""
    return [_trial(context, partition) for partition in context.site.partitions if partition.auto]


def _trial(context: WorkerContext, partition: Partition) -> DoctorCheck:
    name = f"sbatch --test-only in {partition.name}"
    site = context.site
    place = Placement(
        partition=partition.name,
        gpus=1,
        gpu_type=partition.gpu_types[0] if partition.gpu_types else site.gpu_type,
        nodes=1,
        cpus=site.cpus_per_gpu,
        memory_gib=site.memory_per_gpu_gib,
        walltime_s=TRIAL_S,
        account=partition.account,
    )
    try:
        output = context.gateway.run(slurm.test_only_argv(place), stdin="#!/bin/bash\n", timeout_s=LOOK_TIMEOUT_S)
    except RemoteCommandError as exc:
        if _FULL.search(exc.stderr):
            return found.good(name, "would be taken later: your own jobs fill what one user may submit now")
        fix = "Slurm's words say what is missing: often an account (--account) or the partition's limits"
        return found.warn(name, " ".join(exc.stderr.split()) or str(exc), fix)
    test = slurm.parse_start_test(output.stderr)
    return found.good(name, f"one GPU would be given on {test.nodes}" if test else "one GPU would be given")


def _partitions(context: WorkerContext) -> list[DoctorCheck]:
    try:
        shown = parse_partitions(_ask(context, SHOW_PARTITIONS))
        nodes = parse_nodes(_ask(context, SHOW_NODES))
    except (RemoteCommandError, ValueError) as exc:
        return [Findings("partitions").unknown("partitions", str(exc))]
    try:
        limits = parse_qos(_ask(context, SHOW_QOS))
    except RemoteCommandError:
        limits = None
    return partition_checks(context.site, shown, nodes, limits)


def _driver(context: WorkerContext) -> tuple[str | None, str]:
    """The driver that the newest job found on its node, and the job in words; empty where none has run."""
    jobs = [record.job for record in context.store.page(RECORDS, 0)]
    ran = [job for job in jobs if job is not None and job.image_sha256 is not None]
    newest = next((job for job in ran if job.driver), ran[0] if ran else None)
    return (newest.driver, f"job {newest.slurm_id}") if newest else (None, "")
