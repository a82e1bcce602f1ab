"""Phases: every legal move works, every other raises; launch requests are validated."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from bouchet_core.deployments import (
    ENDED_JOBS_KEPT,
    LEGAL_MOVES,
    Deployment,
    Ending,
    Job,
    LaunchRequest,
    Phase,
    Placement,
    ServiceState,
)
from bouchet_core.errors import IllegalTransitionError
from bouchet_core.policy import Policy
from pydantic import ValidationError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 12, 5, tzinfo=UTC)


def in_phase(phase: Phase) -> Deployment:
    return Deployment(
        id="aa",
        model="a/b",
        names=("b",),
        request=LaunchRequest(model="a/b"),
        phase=phase,
        jobs=(Job(name="bouchet-aa-1", slot=0, phase=phase),),
        created_at=NOW,
        updated_at=NOW,
    )


def test_legal_moves_has_every_phase() -> None:
    assert set(LEGAL_MOVES) == set(Phase)


@pytest.mark.parametrize(("origin", "target"), list(product(Phase, Phase)))
def test_moved_raises_exactly_for_illegal_moves(origin: Phase, target: Phase) -> None:
    record = in_phase(origin)
    if target is origin or target in LEGAL_MOVES[origin]:
        moved = record.moved(target, LATER, reason="because")
        assert (moved.phase, moved.reason, moved.version) == (target, "because", 1)
        assert moved.job is not None and moved.job.phase is target
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {origin} to {target}"):
            record.moved(target, LATER)


def test_moved_records_when_the_phase_was_entered() -> None:
    moved = in_phase(Phase.QUEUED).moved(Phase.STARTING, LATER).moved(Phase.STARTING, NOW, reason="loading")
    assert moved.job is not None and moved.job.since == {Phase.STARTING: LATER}


@pytest.mark.parametrize(
    "field",
    [
        {"name": "a'; echo x"},
        {"name": "Ünïcode"},
        {"name": "a" * 300},
        {"partition": "day\nrm"},
        {"time": "yesterday"},
        {"gpus": 0},
        {"account": "--wrap=x"},
        {"qos": ""},
        {"max_len": -1},
        {"quant": "int3"},
        {"gpu": 1},
    ],
)
def test_launch_request_with_invalid_field_raises(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LaunchRequest.model_validate({"model": "a/b", **field})


@pytest.mark.parametrize("time", ["30", "06:00:00", "2-00:00:00", "1-12", "90:00"])
def test_launch_request_accepts_slurm_walltimes(time: str) -> None:
    assert LaunchRequest(model="a/b", time=time).time == time


def kept(*jobs: Job, **fields: Any) -> Deployment:
    """Return a deployment under a policy with these jobs."""
    made = in_phase(Phase.REQUESTED).model_copy(update={"jobs": jobs, "policy": Policy(keep="forever"), **fields})
    return made.settled()


def job(number: int, phase: Phase, **fields: Any) -> Job:
    return Job(name=f"bouchet-aa-{number}", slot=number, phase=phase, reason=f"because {number}", **fields)


def test_deployment_has_the_phase_of_the_job_that_serves_and_lists_it_last() -> None:
    record = kept(job(1, Phase.READY), job(2, Phase.STARTING), job(3, Phase.ENDED))
    assert (record.phase, record.reason, record.job_name) == (Phase.READY, "because 1", "bouchet-aa-1")
    assert [one.name[-1] for one in record.jobs] == ["3", "2", "1"]


def test_job_that_leaves_gives_way_to_the_one_that_comes() -> None:
    record = kept(job(1, Phase.READY, leaving_since=NOW), job(2, Phase.QUEUED))
    assert (record.phase, record.job_name) == (Phase.QUEUED, "bouchet-aa-2")


@pytest.mark.parametrize(
    ("service", "phase"),
    [
        (ServiceState(), Phase.REQUESTED),
        (ServiceState(parked_at=NOW), Phase.PARKED),
        (ServiceState(paused="3 starts failed"), Phase.PARKED),
    ],
)
def test_deployment_that_stays_outlives_its_jobs(service: ServiceState, phase: Phase) -> None:
    record = kept(job(1, Phase.ENDED, ending=Ending.TIMED_OUT), service=service)
    assert (record.phase, record.ending, record.is_live) == (phase, None, True)
    assert record.attempts() == ()


def test_attempt_is_the_record_with_one_job_and_returns_into_it() -> None:
    record = kept(job(1, Phase.READY), job(2, Phase.QUEUED))
    attempt = record.attempt("bouchet-aa-2")
    assert attempt is not None and attempt.jobs == (job(2, Phase.QUEUED),) and attempt.phase is Phase.QUEUED
    merged = record.with_attempt(attempt.moved(Phase.STARTING, LATER, reason="the job has started"))
    assert {one.name[-1]: one.phase for one in merged.jobs} == {"1": Phase.READY, "2": Phase.STARTING}
    assert merged.phase is Phase.READY and merged.updated_at == LATER
    assert record.attempt("bouchet-aa-9") is None


def test_deployment_asked_to_stop_ends_with_its_last_job() -> None:
    record = kept(job(1, Phase.READY), job(2, Phase.QUEUED)).asked_to_stop(NOW)
    for name in ("bouchet-aa-1", "bouchet-aa-2"):
        assert record.is_live
        attempt = record.attempt(name)
        assert attempt is not None and attempt.stop_requested_at == NOW
        record = record.with_attempt(attempt.moved(Phase.ENDED, LATER, reason="done", ending=Ending.CANCELLED))
    assert (record.phase, record.ending) == (Phase.ENDED, Ending.CANCELLED)


def test_oldest_ended_jobs_are_dropped_and_their_gpu_time_is_summed() -> None:
    placement = Placement(partition="p", gpus=2, cpus=1, memory_gib=1, walltime_s=3600)
    since = {Phase.STARTING: NOW, Phase.ENDED: LATER}
    ended = [job(n, Phase.ENDED, placement=placement, since=since) for n in range(1, ENDED_JOBS_KEPT + 3)]
    record = kept(*ended, job(99, Phase.QUEUED))
    attempt = record.attempt("bouchet-aa-99")
    assert attempt is not None
    kept_record = record.with_attempt(attempt.moved(Phase.STARTING, LATER))
    assert len(kept_record.jobs) == ENDED_JOBS_KEPT + 1 and kept_record.attempt("bouchet-aa-1") is None
    assert kept_record.service.used == {"2026-11-22": 2 * 2 * 300.0}


def test_job_ends_at_the_latest_a_walltime_after_its_start() -> None:
    placement = Placement(partition="p", gpus=2, cpus=1, memory_gib=1, walltime_s=300)
    running = job(1, Phase.READY, placement=placement, since={Phase.STARTING: NOW})
    assert running.deadline == LATER
    assert running.model_copy(update={"phase": Phase.QUEUED}).deadline is None
