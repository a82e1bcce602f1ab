"""Estimates of waits, starts and answers from what was measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, Job, Phase, Placement
from bouchet_core.policy import Policy, Replicas
from bouchet_worker.service.estimates import (
    QueueWait,
    answer_estimate,
    backlog_s,
    quantile,
    queue_estimate,
    queue_estimate_age_s,
    startup_estimate,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.scenario import requested

KEPT = Policy(keep="forever")
NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)


def waits(*seconds: float, partition: str = "gpu_h200", gpus: int = 1) -> list[QueueWait]:
    """Return waits of one partition."""
    return [QueueWait(partition, gpus, waited) for waited in seconds]


def test_queue_estimate_without_any_knowledge_is_a_quarter_of_an_hour() -> None:
    found = queue_estimate("gpu_h200", 1, [], now=NOW)
    assert (found.likely_s, found.safe_s, found.source) == (900, 900, "no wait was measured yet")


def test_queue_estimate_of_slurm_alone_is_shown_and_doubled_to_be_safe() -> None:
    found = queue_estimate("gpu_h200", 1, [], slurm_start=NOW + timedelta(minutes=40), now=NOW)
    assert (found.likely_s, found.safe_s) == (2400, 4800)


def test_queue_estimate_of_a_history_is_its_median_and_its_ninth_decile() -> None:
    history = waits(60, 120, 180, 240, 300, 360, 420, 480, 540, 3600)
    found = queue_estimate("gpu_h200", 1, history, now=NOW)
    assert (found.likely_s, found.safe_s, found.source) == (300, 540, "the last 10 waits in gpu_h200")
    # Slurm says now, and it was wrong before; Slurm says tomorrow, and it was never so long
    now = queue_estimate("gpu_h200", 1, history, slurm_start=NOW, now=NOW)
    assert (now.likely_s, now.safe_s) == (0, 540)
    tomorrow = queue_estimate("gpu_h200", 1, history, slurm_start=NOW + timedelta(days=1), now=NOW)
    assert (tomorrow.likely_s, tomorrow.safe_s) == (540, 3600)


def test_queue_estimate_prefers_jobs_of_the_same_size_and_partition() -> None:
    history = [*waits(*[60] * 6), *waits(*[7200] * 6, gpus=8), *waits(*[9] * 9, partition="gpu_devel")]
    assert queue_estimate("gpu_h200", 8, history, now=NOW).likely_s == 7200
    assert queue_estimate("gpu_b200", 1, history, now=NOW).source == "no wait was measured yet"


def test_startup_estimate_follows_the_newest_starts() -> None:
    assert startup_estimate([], weights_gib=80).safe_s == 380
    found = startup_estimate([1200, 300, 310, 290, 305, 320])
    assert (found.likely_s, found.safe_s, found.source) == (305, 320, "the last 5 starts")


def test_answer_estimate_is_all_tokens_at_the_slowest_rate() -> None:
    assert answer_estimate(16_384, []).safe_s == pytest.approx(409.6)
    assert answer_estimate(32_000, [80, 40, 160]).safe_s == 800
    assert answer_estimate(1_000_000, [1]).safe_s == 3600


def test_backlog_grows_or_is_gone_at_the_present_rates() -> None:
    assert backlog_s(0, 0, 0) == 0
    assert backlog_s(10, 2, 1) == 10
    assert backlog_s(10, 1, 1) is None


@given(st.lists(st.floats(-100, 1e6), max_size=30), st.none() | st.integers(-100_000, 100_000))
def test_queue_estimate_of_any_history_is_safe_and_not_negative(seconds: list[float], slurm: int | None) -> None:
    start = None if slurm is None else NOW + timedelta(seconds=slurm)
    found = queue_estimate("gpu_h200", 1, waits(*seconds), slurm_start=start, now=NOW)
    assert 0 <= found.likely_s <= found.safe_s
    assert quantile([1.0, 2.0, 3.0], 1.0) == 3


def serving(left: timedelta, phase: Phase = Phase.READY, policy: Policy = KEPT) -> Deployment:
    """Return a deployment whose job has so long left."""
    placement = Placement(partition="gpu_h200", gpus=1, cpus=8, memory_gib=64, walltime_s=86_400)
    started = NOW + left - timedelta(seconds=placement.walltime_s)
    job = Job(name="bouchet-aa-1", slot=0, phase=phase, placement=placement, since={Phase.STARTING: started})
    return requested("aa", NOW).model_copy(update={"jobs": (job,), "phase": phase, "policy": policy})


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (timedelta(minutes=-1), 60),
        (timedelta(minutes=15), 60),
        (timedelta(hours=1), 180),
        (timedelta(hours=23), 600),
    ],
)
def test_slurm_is_asked_for_an_estimate_seldom_while_no_next_job_is_needed(left: timedelta, expected: float) -> None:
    assert queue_estimate_age_s(serving(left), NOW) == expected


def test_estimate_of_a_deployment_that_may_submit_at_any_time_is_fresh() -> None:
    day = timedelta(hours=23)
    assert queue_estimate_age_s(serving(day, Phase.STARTING), NOW) == 60
    assert queue_estimate_age_s(serving(day, policy=Policy(replicas=Replicas(low=1, high=3))), NOW) == 60
    assert queue_estimate_age_s(requested("bb", NOW), NOW) == 60
