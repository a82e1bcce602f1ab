"""Command lines of Slurm's programs."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from bouchet_core.deployments import Placement
from bouchet_worker.slurm.commands import (
    sacct_by_name_argv,
    sbatch_argv,
    sbatch_test_only_argv,
    scancel_argv,
    terminate_argv,
)

PLACEMENT = Placement(
    partition="gpu_h200", gpus=2, gpu_type="h200", nodes=1, cpus=12, memory_gib=480, walltime_s=90_061
)


def test_sbatch_argv_has_all_options() -> None:
    placement = PLACEMENT.model_copy(update={"account": "prio_x", "qos": "fast", "constraint": "h200&ib"})
    script, arguments = "~/b/remote/x/s.sbatch", ["~/b/jobs/bouchet-a-1"]
    assert sbatch_argv(placement, "bouchet-a-1", "~/b/logs/%j.log", script, arguments) == [
        "sbatch",
        "--parsable",
        "--partition=gpu_h200",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=12",
        "--mem=480G",
        "--time=1-01:01:01",
        "--gpus=h200:2",
        "--account=prio_x",
        "--qos=fast",
        "--constraint=h200&ib",
        "--job-name=bouchet-a-1",
        "--output=~/b/logs/%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@120",
        "~/b/remote/x/s.sbatch",
        "~/b/jobs/bouchet-a-1",
    ]


def test_sbatch_options_for_several_nodes_request_gpus_per_node() -> None:
    argv = sbatch_test_only_argv(PLACEMENT.model_copy(update={"gpus": 16, "nodes": 2}))
    assert "--gpus-per-node=h200:8" in argv and not any(option.startswith("--gpus=") for option in argv)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"gpu_request": "gpus-per-node"}, ["--gpus-per-node=h200:2"]),
        ({"gpu_request": "gpus-per-task"}, ["--gpus-per-task=h200:2"]),
        ({"gpu_request": "gres"}, ["--gres=gpu:h200:2"]),
        ({"gpu_request": "gres", "gpu_type_requested": False, "gpus": 8, "nodes": 2}, ["--gres=gpu:4"]),
        ({"gpu_type_requested": False}, ["--gpus=2"]),
        ({"gpu_request": "none"}, []),
    ],
)
def test_sbatch_options_request_gpus_as_the_site_wants(changes: dict[str, object], options: list[str]) -> None:
    argv = sbatch_test_only_argv(PLACEMENT.model_copy(update=changes))
    assert [option for option in argv if re.match("--(gpu|gres)", option)] == options


def test_sbatch_options_for_whole_nodes_request_no_share_of_one() -> None:
    argv = sbatch_test_only_argv(PLACEMENT.model_copy(update={"whole_node": True, "gpu_request": "none"}))
    assert not any(re.match("--(mem|cpus)", option) for option in argv)


def test_sbatch_options_without_gpus_request_none() -> None:
    argv = sbatch_test_only_argv(PLACEMENT.model_copy(update={"gpus": 0}))
    assert not any("gpus" in option for option in argv)


def test_cancel_commands_name_the_job_by_id() -> None:
    assert scancel_argv(7) == ["scancel", "7"]
    assert terminate_argv(7) == ["scancel", "--batch", "--signal=TERM", "7"]


def test_sacct_by_name_argv_starts_a_day_before() -> None:
    argv = sacct_by_name_argv("bouchet-a-1", datetime(2026, 11, 22, 1, tzinfo=UTC))
    assert argv[-2:] == ["--name=bouchet-a-1", "--starttime=2026-11-21"]
