"""What the actions of a plan change in the record. Pure: the runner saves the result, and the tasks follow from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from bouchet_core.deployments import Deployment, Ending, Job, Phase, PlanDecision
from bouchet_core.tasks import TaskName

from bouchet_worker.launch.job_files import next_job_name

from .inputs import COMING, Action, ActionKind

# the actions that submit a job, which needs a slot
SUBMISSIONS = frozenset({ActionKind.SUBMIT, ActionKind.WAKE})


def carry_out(record: Deployment, actions: Sequence[Action], slot: int | None, now: datetime) -> Deployment:
    """Return the record after the actions, the same object if they change nothing.

    slot: of the next job; None if there is none, and then nothing is submitted.
    """
    new = record
    for action in actions:
        if action.kind in SUBMISSIONS:
            new = new if slot is None else _submitted(new, action, slot, now)
        elif action.kind is ActionKind.NOTHING:
            new = _waiting(new, action.reason, now)
        else:
            new = _CHANGES[action.kind](new, action, now) if action.kind in _CHANGES else new
    return new if new is record else new.settled().model_copy(update={"version": record.version + 1})


def tasks_of(record: Deployment) -> tuple[TaskName, ...]:
    """Return the tasks that the record waits for."""
    live = record.live_jobs
    wanted = any(job.phase is Phase.REQUESTED and job.stop_requested_at is None for job in live)
    unwanted = any(job.stop_requested_at is not None for job in live)
    return (*((TaskName.SUBMIT,) if wanted else ()), *((TaskName.CANCEL,) if unwanted else ()))


def parked(record: Deployment, reason: str, now: datetime) -> Deployment:
    """Return the next version without a job that is wanted."""
    new = _each_job(record, lambda job: _retired(job, reason, now), now)
    new = new.with_service(now, parked_at=now, waits="")
    return new.with_decision(PlanDecision(at=now, action=ActionKind.PARK, reason=reason)).settled()


def is_parked(record: Deployment) -> bool:
    """Tell whether it is parked, and none of its jobs is wanted."""
    return record.service.parked_at is not None and not _wanted_jobs(record)


def _submitted(record: Deployment, action: Action, slot: int, now: datetime) -> Deployment:
    """Add the next job. At most one is on its way: the caller saves this only over the version that it has read."""
    if any(job.phase in COMING and job.stop_requested_at is None for job in record.live_jobs):
        return record
    waits_for_begin = action.begin is not None and action.begin > now
    job = Job(
        name=next_job_name(record),
        slot=slot,
        phase=Phase.REQUESTED,
        since={Phase.REQUESTED: now},
        replaces=action.replaces,
        begin_at=action.begin,
        asked_walltime_s=None if action.walltime_s is None else round(action.walltime_s),
        reason=action.reason,
    )
    new = record.with_job(job, now).with_service(now, waits="")
    if not waits_for_begin:
        new = new.with_service(now, parked_at=None)
    return _logged(new, action, now, job.name)


def _handed_over(record: Deployment, action: Action, now: datetime) -> Deployment:
    return _one_job(
        record, action, {"leaving_since": now}, now, lambda job: job.leaving_since is None or job.leaving_since > now
    )


def _taken_back(record: Deployment, action: Action, now: datetime) -> Deployment:
    return _one_job(record, action, {"leaving_since": None}, now, lambda job: job.leaving_since is not None)


def _retire(record: Deployment, action: Action, now: datetime) -> Deployment:
    changes = {"stop_requested_at": now, "retired_because": f"retired: {action.reason}"}
    return _one_job(record, action, changes, now, lambda job: job.stop_requested_at is None)


def _park(record: Deployment, action: Action, now: datetime) -> Deployment:
    return record if is_parked(record) else parked(record, action.reason, now)


def _end(record: Deployment, action: Action, now: datetime) -> Deployment:
    """End the record once its jobs have ended."""
    new = _each_job(record, lambda job: _retired(job, action.reason, now), now)
    new = _logged(new, action, now)
    return new.asked_to_stop(now) if new.live_jobs else new.ended(Ending.COMPLETED, now, action.reason)


def _pause(record: Deployment, action: Action, now: datetime) -> Deployment:
    if record.service.paused == action.reason:
        return record
    return _logged(record.with_service(now, paused=action.reason, waits=""), action, now)


def _warn(record: Deployment, action: Action, now: datetime) -> Deployment:
    return _logged(record.with_service(now, warned_at=now), action, now)


def _waiting(record: Deployment, reason: str, now: datetime) -> Deployment:
    """Store what the plan waits for; a text that differs in its numbers alone is the same."""
    is_same = _without_numbers(record.service.waits) == _without_numbers(reason)
    return record if is_same else record.with_service(now, waits=reason)


def _one_job(
    record: Deployment,
    action: Action,
    changes: Mapping[str, object],
    now: datetime,
    applies: Callable[[Job], bool],
) -> Deployment:
    job = next((job for job in record.live_jobs if job.name == action.job), None)
    if job is None or not applies(job):
        return record
    return _logged(record.with_job(job.model_copy(update=changes), now), action, now, job.name)


def _each_job(record: Deployment, change: Callable[[Job], Job], now: datetime) -> Deployment:
    new = record
    for job in _wanted_jobs(record):
        new = new.with_job(change(job), now)
    return new


def _wanted_jobs(record: Deployment) -> list[Job]:
    return [job for job in record.live_jobs if job.stop_requested_at is None]


def _retired(job: Job, reason: str, now: datetime) -> Job:
    return job.model_copy(update={"stop_requested_at": now, "leaving_since": now, "retired_because": reason})


def _logged(record: Deployment, action: Action, now: datetime, job: str = "") -> Deployment:
    return record.with_decision(PlanDecision(at=now, action=action.kind, reason=action.reason, job=job))


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


_CHANGES: Mapping[ActionKind, Callable[[Deployment, Action, datetime], Deployment]] = {
    ActionKind.HAND_OVER: _handed_over,
    ActionKind.TAKE_BACK: _taken_back,
    ActionKind.RETIRE: _retire,
    ActionKind.PARK: _park,
    ActionKind.END: _end,
    ActionKind.PAUSE: _pause,
    ActionKind.WARN: _warn,
}
