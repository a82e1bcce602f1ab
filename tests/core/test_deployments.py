"""Phases: every legal move works, every other raises; launch requests are validated."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest
from bouchet_core.deployments import LEGAL_MOVES, Deployment, Job, LaunchRequest, Phase
from bouchet_core.errors import IllegalTransitionError
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
