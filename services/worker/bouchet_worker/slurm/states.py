"""Slurm's job states and what each means for a deployment: a total table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from bouchet_core.deployments import Ending
from bouchet_core.errors import SlurmOutputError


class StateClass(Enum):
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
class StateInfo:
    """One row of the table: the class of the state, and the ending of an ended job."""

    state_class: StateClass
    ending: Ending | None = None


STATES: Mapping[State, StateInfo] = {
    State.BOOT_FAIL: StateInfo(StateClass.ENDED, Ending.FAILED),
    State.CANCELLED: StateInfo(StateClass.ENDED, Ending.CANCELLED),
    State.COMPLETED: StateInfo(StateClass.ENDED, Ending.COMPLETED),
    State.COMPLETING: StateInfo(StateClass.ENDING),
    State.CONFIGURING: StateInfo(StateClass.WAITING),
    State.DEADLINE: StateInfo(StateClass.ENDED, Ending.TIMED_OUT),
    State.EXPEDITING: StateInfo(StateClass.WAITING),
    State.FAILED: StateInfo(StateClass.ENDED, Ending.FAILED),
    State.LAUNCH_FAILED: StateInfo(StateClass.ENDED, Ending.FAILED),
    State.NODE_FAIL: StateInfo(StateClass.ENDED, Ending.FAILED),
    State.OUT_OF_MEMORY: StateInfo(StateClass.ENDED, Ending.FAILED),
    State.PENDING: StateInfo(StateClass.WAITING),
    State.POWER_UP_NODE: StateInfo(StateClass.WAITING),
    State.PREEMPTED: StateInfo(StateClass.ENDED, Ending.PREEMPTED),
    State.RECONFIG_FAIL: StateInfo(StateClass.ENDED, Ending.FAILED),
    State.REQUEUED: StateInfo(StateClass.WAITING),
    State.REQUEUE_FED: StateInfo(StateClass.WAITING),
    State.REQUEUE_HOLD: StateInfo(StateClass.WAITING),
    State.RESIZING: StateInfo(StateClass.RUNNING),
    State.RESV_DEL_HOLD: StateInfo(StateClass.WAITING),
    State.REVOKED: StateInfo(StateClass.ENDED, Ending.CANCELLED),
    State.RUNNING: StateInfo(StateClass.RUNNING),
    State.SIGNALING: StateInfo(StateClass.RUNNING),
    State.SPECIAL_EXIT: StateInfo(StateClass.WAITING),
    State.STAGE_OUT: StateInfo(StateClass.ENDING),
    State.STOPPED: StateInfo(StateClass.PAUSED),
    State.SUSPENDED: StateInfo(StateClass.PAUSED),
    State.TIMEOUT: StateInfo(StateClass.ENDED, Ending.TIMED_OUT),
}


def parse_state(printed: str) -> State:
    """Parse a state as printed, such as `CANCELLED by 2001` or `CANCELLED+`. Raises SlurmOutputError if unknown."""
    name = printed.strip().split(" ")[0].rstrip("+")
    try:
        return State(name)
    except ValueError as exc:
        raise SlurmOutputError("Slurm (a job state)", printed) from exc
