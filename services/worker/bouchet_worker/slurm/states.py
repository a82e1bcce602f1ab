"""Slurm's job states: a total table of what each means for a deployment. An unknown word raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from bouchet_core.deployments import Ending
from bouchet_core.errors import SlurmOutputError


class Meaning(Enum):
    """What a Slurm state means for a deployment."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"
    ENDED = "ended"


class State(StrEnum):
    """Slurm's 24 job states (squeue's manual, JOB STATE CODES), then four that releases after 23.11 added."""

    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    COMPLETING = "COMPLETING"
    CONFIGURING = "CONFIGURING"
    DEADLINE = "DEADLINE"
    FAILED = "FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PENDING = "PENDING"
    PREEMPTED = "PREEMPTED"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESIZING = "RESIZING"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    REVOKED = "REVOKED"
    RUNNING = "RUNNING"
    SIGNALING = "SIGNALING"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    SUSPENDED = "SUSPENDED"
    TIMEOUT = "TIMEOUT"
    EXPEDITING = "EXPEDITING"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    POWER_UP_NODE = "POWER_UP_NODE"
    RECONFIG_FAIL = "RECONFIG_FAIL"


@dataclass(frozen=True)
class Life:
    """One row of the table: the meaning, and the ending where it is one."""

    meaning: Meaning
    ending: Ending | None = None


STATES: Mapping[State, Life] = {
    State.BOOT_FAIL: Life(Meaning.ENDED, Ending.FAILED),
    State.CANCELLED: Life(Meaning.ENDED, Ending.CANCELLED),
    State.COMPLETED: Life(Meaning.ENDED, Ending.COMPLETED),
    State.COMPLETING: Life(Meaning.ENDING),
    State.CONFIGURING: Life(Meaning.WAITING),
    State.DEADLINE: Life(Meaning.ENDED, Ending.TIMED_OUT),
    State.EXPEDITING: Life(Meaning.WAITING),
    State.FAILED: Life(Meaning.ENDED, Ending.FAILED),
    State.LAUNCH_FAILED: Life(Meaning.ENDED, Ending.FAILED),
    State.NODE_FAIL: Life(Meaning.ENDED, Ending.FAILED),
    State.OUT_OF_MEMORY: Life(Meaning.ENDED, Ending.FAILED),
    State.PENDING: Life(Meaning.WAITING),
    State.POWER_UP_NODE: Life(Meaning.WAITING),
    State.PREEMPTED: Life(Meaning.ENDED, Ending.PREEMPTED),
    State.RECONFIG_FAIL: Life(Meaning.ENDED, Ending.FAILED),
    State.REQUEUED: Life(Meaning.WAITING),
    State.REQUEUE_FED: Life(Meaning.WAITING),
    State.REQUEUE_HOLD: Life(Meaning.WAITING),
    State.RESIZING: Life(Meaning.RUNNING),
    State.RESV_DEL_HOLD: Life(Meaning.WAITING),
    State.REVOKED: Life(Meaning.ENDED, Ending.CANCELLED),
    State.RUNNING: Life(Meaning.RUNNING),
    State.SIGNALING: Life(Meaning.RUNNING),
    State.SPECIAL_EXIT: Life(Meaning.WAITING),
    State.STAGE_OUT: Life(Meaning.ENDING),
    State.STOPPED: Life(Meaning.PAUSED),
    State.SUSPENDED: Life(Meaning.PAUSED),
    State.TIMEOUT: Life(Meaning.ENDED, Ending.TIMED_OUT),
}


def parse_state(word: str) -> State:
    """The state that `RUNNING`, `CANCELLED by 2001` or `CANCELLED+` names; SlurmOutputError for a word not known."""
    name = word.strip().split(" ")[0].rstrip("+")
    try:
        return State(name)
    except ValueError as exc:
        raise SlurmOutputError("Slurm (a job state)", word) from exc
