"""Slurm's job states."""

from __future__ import annotations

import pytest
from bouchet_core.deployments import Ending
from bouchet_core.errors import SlurmOutputError
from bouchet_worker.reconcile.endings import SENTENCES
from bouchet_worker.slurm.states import STATES, State, StateClass, parse_state

# JOB STATE CODES of squeue's manual, 24.11
MANUAL_24_11 = [
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE",
    "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "PREEMPTED", "RUNNING",
    "RESV_DEL_HOLD", "REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED", "RESIZING", "REVOKED",
    "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT",
]  # fmt: skip


def test_states_has_a_row_for_every_state() -> None:
    assert len(MANUAL_24_11) == 24
    assert {State(name) for name in MANUAL_24_11} <= set(STATES)
    assert set(STATES) == set(State)


def test_states_have_an_ending_and_a_sentence_exactly_when_ended() -> None:
    for state, info in STATES.items():
        assert (info.state_class is StateClass.ENDED) == (info.ending is not None), state
        assert (info.state_class is StateClass.ENDED) == (state in SENTENCES), state
    assert STATES[State.CANCELLED].ending is Ending.CANCELLED


@pytest.mark.parametrize(
    ("printed", "state"),
    [("RUNNING", State.RUNNING), ("CANCELLED by 2001", State.CANCELLED), ("CANCELLED+", State.CANCELLED)],
)
def test_parse_state_accepts_printed_forms(printed: str, state: State) -> None:
    assert parse_state(printed) is state


@pytest.mark.parametrize("printed", ["", "R", "running", "NEWLY_INVENTED", "RUNNING!"])
def test_parse_state_of_unknown_state_raises(printed: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_state(printed)
