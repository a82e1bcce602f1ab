"""The functions that RQ calls by name. Each is a step and never a wait; each may be called again at any time."""

from __future__ import annotations

from .desk import Desk
from .stop import stop as _stop
from .submit import submit as _submit

QUEUE = "errands"

_open: list[Desk] = []


def open_desk(desk: Desk) -> None:
    """Errands of this process work with that desk from now on; called once, by main()."""
    _open[:] = [desk]


def submit(deployment: str) -> str:
    """Takes a requested deployment to Slurm."""
    return _submit(_open[0], deployment)


def stop(deployment: str) -> str:
    """Cancels a deployment's job, or ends the deployment where it has none."""
    return _stop(_open[0], deployment)
