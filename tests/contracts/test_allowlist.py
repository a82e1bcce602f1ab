"""The gateway's allowlist accepts every Slurm command that the worker builds."""

from __future__ import annotations

from datetime import UTC, datetime

from bouchet_core.deployments import Placement
from bouchet_gateway.allowlist import Allowlist
from bouchet_worker.doctor import partitions
from bouchet_worker.slurm.commands import (
    sacct_argv,
    sacct_by_name_argv,
    sbatch_argv,
    sbatch_test_only_argv,
    scancel_argv,
    show_job_argv,
    show_node_argv,
    show_reservations_argv,
    squeue_argv,
    terminate_argv,
    usage_argv,
)

from tests.gateway.test_allowlist import BUNDLE, ROOT, SCRIPTS, SITE

ALLOWLIST = Allowlist(SITE, BUNDLE)
PLACEMENT = Placement(
    partition="gpu",
    gpus=2,
    gpu_type="h200",
    nodes=1,
    cpus=2,
    memory_gib=6,
    walltime_s=3600,
    account="prio_x",
    qos="high",
    constraint="h200&nvlink|b200",
)


def test_allowlist_accepts_every_slurm_command_of_the_worker() -> None:
    folder = SCRIPTS
    job = [f"{ROOT}/jobs/bouchet-x-1", folder]
    for argv in (
        sbatch_argv(PLACEMENT, "bouchet-x-1", f"{ROOT}/logs/%j.log", f"{folder}/vllm-serve.sbatch", job),
        sbatch_test_only_argv(PLACEMENT),
        squeue_argv(),
        usage_argv(),
        sacct_argv([1, 2]),
        sacct_by_name_argv("bouchet-x-1", datetime(2026, 11, 22, tzinfo=UTC)),
        show_job_argv(1),
        show_node_argv("node1"),
        show_reservations_argv(),
        scancel_argv(1),
        terminate_argv(1),
        [*partitions.SHOW_PARTITIONS],
        [*partitions.SHOW_NODES],
        [*partitions.SHOW_QOS],
    ):
        ALLOWLIST.check_argv(argv)
