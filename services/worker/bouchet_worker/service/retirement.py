"""Which jobs take no new conversations, and which are cancelled because nothing is open on them any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from bouchet_core.deployments import Phase

from .inputs import Action, ActionKind, JobView, RecordView, ServiceLimits, ServiceLoad
from .sentences import clock, late, span
from .wanted import Wanted, has_demand, is_early, planned_start

# a proxy reads a change of records within this time; until then it may still open streams on the job
SETTLE_S = 5.0
# a replica beyond the lower number that was not asked for so long is given back
REPLICA_IDLE_S = 600.0


def without_place(record: RecordView) -> frozenset[str]:
    """Return the names of jobs whose place a live job takes over."""
    names = {job.name for job in record.jobs}
    return frozenset(job.replaces for job in record.jobs if job.replaces in names and job.replaces is not None)


def places(record: RecordView) -> list[JobView]:
    """Return the jobs that hold a place: neither leaving nor replaced by another live job."""
    replaced = without_place(record)
    return [job for job in record.jobs if not job.is_leaving and job.name not in replaced]


def remaining_s(job: JobView, now: datetime) -> float | None:
    """Return the seconds until the job must end, None if it has not started."""
    return None if job.ends_at is None else (job.ends_at - now).total_seconds()


def longest_answer_s(job: JobView, limits: ServiceLimits) -> float:
    """Return how long before its end the job takes its last new request: a quarter of its walltime at most."""
    if job.ends_at is None or job.started_at is None:
        return limits.longest_answer_s
    return min(limits.longest_answer_s, (job.ends_at - job.started_at).total_seconds() / 4)


def wind_down(
    record: RecordView, load: ServiceLoad, limits: ServiceLimits, wanted: Wanted, now: datetime
) -> list[Action]:
    """Return the steps of a deployment that is not wanted now: no new requests, then parked at zero streams."""
    planned = planned_start(record, limits, now)
    jobs = [job for job in record.jobs if wanted.is_over or not is_early(job, planned, limits)]
    if not jobs:
        if wanted.is_over:
            return [Action(ActionKind.END, wanted.reason)]
        return [] if record.parked_at is not None or record.jobs else [Action(ActionKind.PARK, wanted.reason)]
    if all(_may_go(job, now) for job in jobs):
        if wanted.is_over:
            return [Action(ActionKind.END, wanted.reason)]
        if len(jobs) == len(record.jobs):
            return [Action(ActionKind.PARK, wanted.reason)]
    actions = [Action(ActionKind.RETIRE, wanted.reason, job=job.name) for job in jobs if _may_go(job, now)]
    leaving = [job for job in jobs if job.is_serving]
    return actions + [Action(ActionKind.HAND_OVER, wanted.reason, job=job.name) for job in leaving]


def retire(record: RecordView, load: ServiceLoad, limits: ServiceLimits, wanted: Wanted, now: datetime) -> list[Action]:
    """Return the steps for jobs that have a successor, are too many, end too soon for an answer, or are done."""
    back = _take_back(record, limits, wanted, now)
    actions = [
        Action(ActionKind.RETIRE, f"nothing is open on it any more; {_who_serves(record)}", job=job.name)
        for job in record.jobs
        if job.leaving_since is not None and not job.is_coming and _may_go(job, now)
        if back is None or job.name != back.job
    ]
    actions += _coming_twice(record, limits, wanted, now)
    if back is not None:
        return [*actions, back]
    chosen: dict[str, Action] = {}
    for action in (*_succeeded(record), *_excess(record, wanted), *_ending(record, limits, now)):
        chosen.setdefault(action.job or "", action)
    if not chosen and not record_is_changing(record):
        chosen.update((action.job or "", action) for action in _idle_replica(record, load, wanted, now))
    return actions + list(chosen.values())


def clock_was_set_back(record: RecordView, now: datetime) -> list[Action]:
    """Return a hand-over for each job that was handed over in the future: no report of the proxy is newer than that."""
    latest = now + timedelta(seconds=SETTLE_S)
    jobs = [job for job in record.jobs if job.leaving_since is not None and job.leaving_since > latest]
    return [Action(ActionKind.HAND_OVER, "the clock was set back since", job=job.name) for job in jobs]


def finish(record: RecordView, now: datetime) -> list[Action]:
    """Return the steps of a hand-over that had begun when the policy was removed: its last job runs to its end."""
    serving = any(job.is_serving for job in record.jobs)
    leaving = [job for job in record.jobs if job.phase is Phase.READY and job.is_leaving]
    if not serving:
        return [Action(ActionKind.TAKE_BACK, "no other job is ready", job=job.name) for job in leaving[-1:]]
    reason = f"nothing is open on it any more; {_who_serves(record)}"
    gone = [Action(ActionKind.RETIRE, reason, job=job.name) for job in leaving if _may_go(job, now)]
    return [*gone, *_succeeded(record)]


def record_is_changing(record: RecordView) -> bool:
    """Tell whether a job is queued, loading or leaving."""
    return any(job.is_coming or job.is_leaving for job in record.jobs)


def _may_go(job: JobView, now: datetime) -> bool:
    """Tell whether a cancellation cuts no answer: it never served, or has taken nothing new for a while."""
    if job.open_streams:
        return False
    if job.is_coming:
        return True
    return job.leaving_since is not None and abs((now - job.leaving_since).total_seconds()) >= SETTLE_S


def _who_serves(record: RecordView) -> str:
    others = [job.name for job in record.jobs if job.is_serving]
    return f"{others[-1]} serves" if others else "the next job is on its way"


def _take_back(record: RecordView, limits: ServiceLimits, wanted: Wanted, now: datetime) -> Action | None:
    """Return the step that lets a leaving job serve on, where nothing else does and it lasts long enough."""
    if any(job.is_serving for job in record.jobs):
        return None
    for job in record.jobs:
        left = remaining_s(job, now)
        lasts = left is None or left > longest_answer_s(job, limits) + SETTLE_S
        if job.phase is Phase.READY and job.is_leaving and lasts:
            return Action(ActionKind.TAKE_BACK, f"{wanted.reason}, and no other job is ready", job=job.name)
    return None


def _succeeded(record: RecordView) -> list[Action]:
    """Return the steps for jobs whose successor is ready."""
    by_name = {job.name: job for job in record.jobs}
    found = []
    for job in record.jobs:
        old = by_name.get(job.replaces or "")
        if job.is_serving and old is not None and old.name != job.name and old.is_serving:
            reason = f"its successor {job.name} is ready; conversations move at their next turn"
            found.append(Action(ActionKind.HAND_OVER, reason, job=old.name))
    return found


def _excess(record: RecordView, wanted: Wanted) -> list[Action]:
    """Return the steps for serving jobs beyond the most that the policy allows, those that end first."""
    holders = [job for job in places(record) if job.is_serving]
    many = len(holders) - max(wanted.count, record.policy.replicas.high)
    if many <= 0:
        return []
    soonest = sorted(holders, key=lambda job: (job.ends_at is None, job.ends_at or job.submitted_at))[:many]
    reason = f"{len(holders)} jobs serve, and its policy allows {record.policy.replicas.high}"
    return [Action(ActionKind.HAND_OVER, reason, job=job.name) for job in soonest]


def _coming_twice(record: RecordView, limits: ServiceLimits, wanted: Wanted, now: datetime) -> list[Action]:
    """Return the steps for jobs on their way whose place another one holds, those that would serve last.

    Slurm starts a preempted job again, and by then the next one may have been submitted for its place.
    """
    holders = [job for job in places(record) if job.is_coming or not _needs_successor(job, limits, now)]
    coming = sorted((job for job in holders if job.is_coming), key=lambda job: _serves_at(job, limits, now))
    spare = len(holders) - wanted.count
    many = max(len(holders) - max(wanted.count, record.policy.replicas.high), min(len(coming) - 1, spare))
    chosen = [job for job in coming[max(0, len(coming) - many) :] if _may_go(job, now)] if many > 0 else []
    reason = "another job holds its place"
    return [Action(ActionKind.RETIRE, reason, job=job.name) for job in chosen]


def _needs_successor(job: JobView, limits: ServiceLimits, now: datetime) -> bool:
    """Tell whether a serving job ends so soon that a job on its way is the next one."""
    left = remaining_s(job, now)
    next_s = limits.queue_s + limits.startup_s + 2 * longest_answer_s(job, limits)
    return left is not None and left <= next_s


def _ending(record: RecordView, limits: ServiceLimits, now: datetime) -> list[Action]:
    """Return the steps for jobs that end before an answer that begins now might."""
    found = []
    for job in record.jobs:
        left = remaining_s(job, now)
        if not job.is_serving or left is None or left > longest_answer_s(job, limits):
            continue
        ready = expected_ready(record, limits, now)
        eta = f"ready about {clock(ready, now, record.policy.zone)}" if ready is not None else ""
        found.append(Action(ActionKind.HAND_OVER, late(left, longest_answer_s(job, limits), eta), job=job.name))
    return found


def _idle_replica(record: RecordView, load: ServiceLoad, wanted: Wanted, now: datetime) -> Sequence[Action]:
    """Return the step for the replica that was asked last of all, if it is one too many for the load."""
    holders = [job for job in places(record) if job.is_serving]
    if len(holders) <= wanted.count or load.waiting or has_demand(load, now):
        return ()
    since = {job.name: max(job.last_request_end or job.submitted_at, job.ready_at or now) for job in holders}
    job = min(holders, key=lambda j: (bool(j.open_streams), since[j.name]))
    idle_s = (now - since[job.name]).total_seconds()
    if job.open_streams or idle_s < REPLICA_IDLE_S:
        return ()
    reason = f"this replica had no request for {span(idle_s)}, and {wanted.count} are kept"
    return (Action(ActionKind.HAND_OVER, reason, job=job.name),)


def expected_ready(record: RecordView, limits: ServiceLimits, now: datetime) -> datetime | None:
    """Return when the next job is likely to serve, None if none is queued or loading."""
    coming = [_serves_at(job, limits, now) for job in record.jobs if job.is_coming]
    return max(min(coming), now) if coming else None


def _serves_at(job: JobView, limits: ServiceLimits, now: datetime) -> datetime:
    """Return when a job that is on its way is likely to serve; a time that has passed, if it is late."""
    waited = timedelta(seconds=limits.queue_s)
    start = job.started_at or job.start_estimate or max(job.submitted_at + waited, job.begin_at or now)
    start = max(start if job.started_at else max(start, now), job.begin_at or start)
    return start + timedelta(seconds=limits.startup_s)
