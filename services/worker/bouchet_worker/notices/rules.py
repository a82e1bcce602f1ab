"""Which notices the state of a record calls for. Pure: the same record gives the same keys, however often it is read.

A key names one happening by what the record says of it (a job, the time at which it became ready, a budget's period),
never by the time at which it was noticed. So neither a restart nor a clock that jumps makes a second notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.notices import MAX_TEXT, MAX_TITLE, NOTICE_AGE, Notice, NoticeKind, plain_text
from bouchet_core.policy.budget import INSTALLATION, BudgetUse

from bouchet_worker.service.inputs import ActionKind
from bouchet_worker.service.sentences import clock, span

ENDING_SOON = timedelta(minutes=10)
# of a short job: the last quarter of its walltime
ENDING_SHARE = 0.25
NEARLY_USED, USED_UP = 0.8, 1.0
ENDINGS = {
    Ending.COMPLETED: "completed",
    Ending.CANCELLED: "cancelled",
    Ending.FAILED: "failed",
    Ending.TIMED_OUT: "its walltime is over",
    Ending.PREEMPTED: "preempted",
    Ending.IDLE: "it was idle",
    Ending.DETACHED: "detached",
}


def notices_of(record: Deployment, now: datetime) -> list[Notice]:
    """Return the notices about a record; what happened more than NOTICE_AGE ago is left out.

    An attached server has none: it is not ours, and a person is there who attaches and detaches it.
    """
    if record.attached is not None:
        return []
    found = [*_ready(record), *_ending(record, now), *_failed_starts(record), *_lost_jobs(record), *_ended(record)]
    return [notice for notice in found if abs(now - notice.at) <= NOTICE_AGE]


def budget_notices(record: Deployment, uses: Sequence[BudgetUse], now: datetime) -> list[Notice]:
    """Return a notice for each budget that is nearly or wholly used, by its period."""
    found = []
    for use in uses:
        if use.share < NEARLY_USED:
            continue
        level = USED_UP if use.share >= USED_UP else NEARLY_USED
        is_own = use.scope != INSTALLATION
        # periods of all time zones that begin on the same day are one period of the installation
        day = (use.period.start + timedelta(hours=12)).date()
        key = f"budget/{record.id if is_own else 'installation'}/{use.text}/{day}/{level:.0%}"
        until = clock(use.period.end, now, record.policy.zone)
        whose = f"{record.alias}: {{}} of its budget" if is_own else "{} of the installation's budget"
        if level == USED_UP:
            title, state = whose.format("all"), "is used up, so no job is submitted on it"
        else:
            title, state = whose.format(f"{use.share:.0%}"), f"is used to {use.share:.0%}"
        text = f"The budget of {use.text} {state}; its next period begins {until}."
        found.append(_notice(record, key, NoticeKind.BUDGET, f"{title} is used", text, now))
    return found


def _ready(record: Deployment) -> Iterator[Notice]:
    """Yield the job that began to serve while no other job did; a successor that takes over is no news."""
    for job in record.live_jobs:
        ready_at = job.since.get(Phase.READY)
        if job.phase is not Phase.READY or ready_at is None or _served_at(record, ready_at, job):
            continue
        key = f"ready/{job.name}/{ready_at.isoformat()}"
        text = job.reason or "Start Claude Code with `bouchet`, or chat with `bouchet chat`."
        yield _notice(record, key, NoticeKind.READY, f"{record.alias} is ready", text, ready_at)


def _served_at(record: Deployment, moment: datetime, own: Job) -> bool:
    """Tell whether another job was ready at that time."""
    for job in record.jobs:
        began, ended = job.since.get(Phase.READY), job.since.get(Phase.ENDED)
        if job.name != own.name and began is not None and began <= moment and (ended is None or ended > moment):
            return True
    return False


def _ending(record: Deployment, now: datetime) -> Iterator[Notice]:
    """Yield the end that comes soon and that nothing follows: of a job's walltime, or of `keep`."""
    serving = next((job for job in record.live_jobs if job.phase is Phase.READY), None)
    if serving is None or record.stop_requested_at is not None:
        return
    keep = record.policy.keep
    if not record.stays and serving.deadline is not None and serving.placement is not None:
        end, began = serving.deadline, serving.since.get(Phase.STARTING, serving.deadline)
        key = f"ending/{serving.name}/{began.isoformat()}"
        soon = min(ENDING_SOON, timedelta(seconds=serving.placement.walltime_s * ENDING_SHARE))
    elif record.stays and isinstance(keep, datetime) and not record.policy.on_demand:
        end, soon, key = keep, ENDING_SOON, f"ending/{record.id}/{keep.isoformat()}"
    else:
        return
    left = end - now
    if timedelta() < left <= soon:
        title = f"{record.alias} ends in {span(left.total_seconds())}"
        text = f"Its time is over at {clock(end, now, record.policy.zone)} ({record.policy.zone}). "
        text += f"To go on without a gap: `bouchet keep {record.alias} 1d`."
        yield _notice(record, key, NoticeKind.ENDING, title, text, now)


def _failed_starts(record: Deployment) -> Iterator[Notice]:
    """Yield the jobs of a live record that ended before they were ready, and why nothing more is submitted."""
    if not record.is_live or not record.policy.is_managed:
        return
    for job in record.jobs:
        ended_at = job.since.get(Phase.ENDED)
        if Phase.READY not in job.since and ended_at is not None and _ended_by_itself(job):
            text = job.reason or "No reason is recorded."
            title = f"{record.alias} did not start"
            yield _notice(record, f"failed/{job.name}", NoticeKind.FAILED_START, title, text, ended_at)
    pauses = [one.at for one in record.service.decisions if one.action == ActionKind.PAUSE]
    if record.service.paused and pauses:
        key, title = f"paused/{record.id}/{pauses[-1].isoformat()}", f"{record.alias} is paused"
        yield _notice(record, key, NoticeKind.FAILED_START, title, record.service.paused, pauses[-1])


def _lost_jobs(record: Deployment) -> Iterator[Notice]:
    """Yield the jobs of a live record that served and were lost: a node failed, Slurm preempted it."""
    if not record.is_live or not record.policy.is_managed:
        return
    for job in record.jobs:
        ended_at, was_lost = job.since.get(Phase.ENDED), job.ending in (Ending.FAILED, Ending.PREEMPTED)
        if Phase.READY in job.since and ended_at is not None and was_lost and _ended_by_itself(job):
            title = f"{record.alias} lost a job: {_ending_text(job.ending)}"
            text = f"{job.reason.rstrip('.') or 'No reason is recorded'}. Its policy submits the next one."
            yield _notice(record, f"lost/{job.name}", NoticeKind.ENDED, title, text, ended_at)


def _ended(record: Deployment) -> Iterator[Notice]:
    """Yield the end of the deployment: a failed start if no job was ever ready, and it was not cancelled."""
    if record.is_live:
        return
    text = record.reason or "No reason is recorded."
    started = any(Phase.READY in job.since for job in record.jobs)
    if not started and record.ending not in (Ending.CANCELLED, Ending.COMPLETED):
        title, kind = f"{record.alias} did not start", NoticeKind.FAILED_START
    else:
        title, kind = f"{record.alias} ended: {_ending_text(record.ending)}", NoticeKind.ENDED
    yield _notice(record, f"ended/{record.id}", kind, title, text, record.updated_at)


def _ended_by_itself(job: Job) -> bool:
    return not job.is_live and job.stop_requested_at is None and job.ending is not Ending.CANCELLED


def _ending_text(ending: Ending | None) -> str:
    return ENDINGS[ending] if ending is not None else "no cause is recorded"


def _notice(record: Deployment, key: str, kind: NoticeKind, title: str, text: str, at: datetime) -> Notice:
    return Notice(
        key=key,
        kind=kind,
        title=plain_text(title, MAX_TITLE),
        text=plain_text(text, MAX_TEXT),
        asked=record.request.notify,
        at=at,
    )
