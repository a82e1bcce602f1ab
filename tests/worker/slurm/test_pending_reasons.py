"""What Slurm's pending reasons mean, and what would start sooner."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_core.deployments import Placement
from bouchet_worker.slurm.pending_reasons import describe_pending_reason, suggest_earlier_start

# JOB REASON CODES of squeue's manual, 24.11, those that a job with GPUs can have
MANUAL_24_11 = (Path(__file__).parents[1] / "slurm_output" / "reasons_24.11.txt").read_text().split()
PLACEMENT = Placement(partition="gpu_devel", gpus=2, gpu_type="h200", nodes=1, cpus=12, memory_gib=480, walltime_s=3600)


@pytest.mark.parametrize("reason", MANUAL_24_11)
def test_describe_pending_reason_explains_every_code_of_the_manual(reason: str) -> None:
    text = describe_pending_reason(reason)
    assert not text.startswith("waiting in the queue")
    assert text.endswith(f"({reason})")
    assert "{" not in text


def test_describe_pending_reason_of_unknown_code_repeats_it() -> None:
    assert describe_pending_reason("Brand_New_Reason") == "waiting in the queue (Brand_New_Reason)"


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("QOSMaxGRESPerUser", "limit of GPUs that you may use"),
        ("AssocGrpGRES", "limit of GPUs that your group may use"),
        ("QOSGrpJobsLimit", "your group runs as many jobs"),
        ("QOSMaxWallDurationPerJobLimit", "launch with a shorter --time"),
        ("QOSMaxGRESPerJob", "never start; cancel it and launch with less"),
        ("QOSMinGRES", "launch with more"),
        ("AssocGrpCPUMinutesLimit", "computing time of your group"),
        ("QOSMaxSubmitJobPerUserLimit", "submitted jobs"),
    ],
)
def test_describe_pending_reason_of_limit_names_whose_it_is(reason: str, part: str) -> None:
    assert part in describe_pending_reason(reason)


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("ReqNodeNotAvail, Reserved for maintenance", "sooner with a shorter --time"),
        ("ReqNodeNotAvail(Unavailable:node[1-2])", "down, drained or reserved"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "kept for"),
        ("launch_failed_requeued_held", "cancel it and launch again"),
        ("launch failed requeued held", "cancel it and launch again"),
        ("user env retrieval failed requeued held", "Slurm holds it"),
        ("user_env_retrieval_failed_requeued_held", "cancel it"),
        ("job_requeued_in_held_state", "`scontrol release"),
    ],
)
def test_describe_pending_reason_reads_sentences(reason: str, part: str) -> None:
    assert part in describe_pending_reason(reason)


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("Priority", "shorter --time"),
        ("Resources", "--partition auto"),
        ("QOSMaxJobsPerUserLimit", "cancel one of your jobs in gpu_devel"),
        ("QOSMaxGRESPerUser", "fewer --gpus"),
        ("QOSGrpGRES", "your group"),
    ],
)
def test_suggest_earlier_start_names_an_option(reason: str, part: str) -> None:
    assert part in suggest_earlier_start(reason, PLACEMENT)


@pytest.mark.parametrize(
    "reason", ["BeginTime", "QOSMaxGRESPerJob", "Dependency", "JobHeldUser", "Brand_New_Reason", ""]
)
def test_suggest_earlier_start_without_known_option_is_empty(reason: str) -> None:
    assert suggest_earlier_start(reason, PLACEMENT) == ""


def test_suggest_earlier_start_without_placement_is_empty() -> None:
    assert suggest_earlier_start("Priority", None) == ""
