"""When the next job is submitted, how long it may run, and what must end before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from .inputs import Action, ActionKind, JobView, RecordView, Rival, ServiceLimits, ServiceLoad
from .retirement import expected_ready, longest_answer_s, places, remaining_s
from .sentences import clock, failed_starts, renewal, span, too_short
from .wanted import ADVANCE, Wanted, has_demand, is_early, planned_start

MOST_FAILED_STARTS = 3
RETRY_S = 60.0
# what a start may take beyond its estimate, at least, and as a part of the estimate
MARGIN_S, MARGIN = 30.0, 0.1
# a job serves a quarter of its walltime before its successor is submitted, however long the queue is
LONGEST_LEAD = 0.75
# Slurm knows no shorter walltime
SHORTEST_S = 1.0
# the load that asks for another replica must last so long
HIGH_S = 60.0
# a model that was woken or asked for so recently is not parked for another
RIVAL_IDLE_S = 120.0


@dataclass(frozen=True)
class _Run:
    """How long a new job may run, and not before when it may start. problem: why it must not be submitted at all."""

    walltime_s: float
    begin: datetime | None = None
    note: str = ""
    problem: str = ""


def submit(record: RecordView, load: ServiceLoad, limits: ServiceLimits, wanted: Wanted, now: datetime) -> list[Action]:
    """Return at most one submission, what it waits for, or what must end before it. Nothing while a job is coming."""
    coming = [job for job in record.jobs if job.is_coming]
    if coming:
        return _while_coming(record, load, limits, wanted, coming, now)
    if record.paused:
        return [Action(ActionKind.NOTHING, record.paused)] if wanted.count else []
    if record.failed_starts >= MOST_FAILED_STARTS:
        reason = record.last_end.reason if record.last_end is not None else ""
        return [Action(ActionKind.PAUSE, failed_starts(record.failed_starts, reason))] if wanted.count else []
    if not wanted.count:
        return _in_advance(record, limits, wanted, now)
    step = _missing(record, load, limits, wanted, now) or _renewal(record, limits, wanted, now)
    return step or _replica(record, load, limits, wanted, now)


def lead_s(limits: ServiceLimits, answer_s: float) -> float:
    """Return how long before a job's end its successor is submitted."""
    expected = limits.queue_s + limits.startup_s
    return expected + answer_s + max(MARGIN_S, MARGIN * expected)


def renewals(record: RecordView, limits: ServiceLimits) -> list[tuple[datetime, JobView]]:
    """Return for each place when its successor is due, the first one first. Successors start one after the other."""
    found: list[tuple[datetime, JobView]] = []
    each = timedelta(seconds=limits.queue_s + limits.startup_s)
    holders = [job for job in places(record) if job.ends_at is not None and not job.is_coming]
    for job in sorted(holders, key=lambda j: j.ends_at or now_of(j), reverse=True):
        end = job.ends_at or now_of(job)
        due = end - timedelta(seconds=lead_s(limits, longest_answer_s(job, limits)))
        if found:
            due = min(due, found[-1][0] - each)
        if job.started_at is not None:
            due = max(due, end - (end - job.started_at) * LONGEST_LEAD)
        found.append((due, job))
    return found[::-1]


def now_of(job: JobView) -> datetime:
    """Return the earliest time that is known of the job."""
    return job.started_at or job.submitted_at


def _while_coming(
    record: RecordView,
    load: ServiceLoad,
    limits: ServiceLimits,
    wanted: Wanted,
    coming: Sequence[JobView],
    now: datetime,
) -> list[Action]:
    """Return that nothing more is submitted; a job that waits for hours gives way to a request."""
    planned, free_at = planned_start(record, limits, now), _after_maintenance(record, limits, wanted, now)
    for job in coming:
        if job.started_at is not None or job.begin_at is None or job.begin_at <= now or job.open_streams:
            continue
        if free_at is not None and job.begin_at <= free_at:
            # one that is submitted now would wait as long
            continue
        if has_demand(load, now) and wanted.count and not any(j.is_serving for j in record.jobs):
            return [Action(ActionKind.RETIRE, "a request asks for it before its hours", job=job.name)]
        if not is_early(job, planned, limits):
            return [Action(ActionKind.RETIRE, "its hours, or those of maintenance, have changed", job=job.name)]
    if not wanted.count:
        return []
    ready = expected_ready(record, limits, now)
    when = f"about {clock(ready, now, record.policy.zone)}" if ready is not None else "later"
    return [Action(ActionKind.NOTHING, f"{coming[0].name} is on its way, ready {when}")]


def _in_advance(record: RecordView, limits: ServiceLimits, wanted: Wanted, now: datetime) -> list[Action]:
    """Return the submission for coming hours, which Slurm holds back until then."""
    planned = planned_start(record, limits, now)
    if planned is None or record.jobs or record.parked_at is None or planned.begin - now > ADVANCE or wanted.is_over:
        return []
    if any(use.share >= 1 and planned.begin < use.period.end for use in limits.budgets) or _full(limits):
        return []
    run = _run(record, limits, Wanted(1, "", planned.end), max(planned.begin, now), now)
    if run.problem:
        return []
    ready = clock(planned.start, now, record.policy.zone)
    reason = f"to be ready at {ready}: it starts at {clock(planned.begin, now, record.policy.zone)} at the earliest"
    begin = max(run.begin or planned.begin, planned.begin)
    return [Action(ActionKind.SUBMIT, reason, walltime_s=run.walltime_s, begin=begin)]


def _missing(
    record: RecordView, load: ServiceLoad, limits: ServiceLimits, wanted: Wanted, now: datetime
) -> list[Action]:
    """Return the submission for a place that no job holds."""
    held = len(places(record))
    if held >= wanted.count:
        return []
    last = record.last_end
    if record.failed_starts and last is not None:
        pause = RETRY_S * 4 ** (record.failed_starts - 1)
        since = (now - last.at).total_seconds()
        if 0 <= since < pause:
            reason = f"the last start failed ({last.reason}); next try in {span(pause - since)}"
            return [Action(ActionKind.NOTHING, reason)]
    rivals = _free_gpus(record, limits, now)
    if rivals is not None:
        return rivals
    is_wake = not record.jobs and has_demand(load, now)
    reason = wanted.reason if held or last is None or is_wake else f"{last.reason}; {wanted.reason}"
    if wanted.count > 1:
        reason += f" ({held} of {wanted.count} replicas are there)"
    planned = planned_start(record, limits, now)
    begin = now if planned is not None and not is_wake and now >= planned.begin else None
    kind = ActionKind.WAKE if is_wake else ActionKind.SUBMIT
    return _submission(record, limits, wanted, now, Action(kind, reason, begin=begin))


def _renewal(record: RecordView, limits: ServiceLimits, wanted: Wanted, now: datetime) -> list[Action]:
    """Return the successor that is due."""
    for due, job in renewals(record, limits):
        left = remaining_s(job, now)
        if left is None or now < due:
            continue
        gap = None if wanted.ends_at is None or job.ends_at is None else (wanted.ends_at - job.ends_at).total_seconds()
        if gap is not None and gap <= limits.startup_s:
            continue
        reason = renewal(left, limits.queue_s, limits.startup_s, longest_answer_s(job, limits))
        if _over_gpus(record, limits):
            reason += f"; your limit of {limits.max_gpus} GPUs lets it start when {job.name} ends"
        return _submission(record, limits, wanted, now, Action(ActionKind.SUBMIT, reason, replaces=job.name))
    return []


def _replica(
    record: RecordView, load: ServiceLoad, limits: ServiceLimits, wanted: Wanted, now: datetime
) -> list[Action]:
    """Return another replica, if it would run before the backlog is gone and leaves GPUs for a hand-over."""
    held = len(places(record))
    is_high = load.high_since is not None and (now - load.high_since).total_seconds() >= HIGH_S
    if not is_high or held >= record.policy.replicas.high:
        return []
    needed_s = limits.queue_s + limits.startup_s
    if load.backlog_s is not None and load.backlog_s <= needed_s:
        reason = f"a replica would run in {span(needed_s)}; the backlog is gone in {span(load.backlog_s)}"
        return [Action(ActionKind.NOTHING, reason)]
    if wanted.ends_at is not None and (wanted.ends_at - now).total_seconds() < 2 * needed_s:
        return []
    if limits.max_gpus is not None and limits.gpus_in_use + 2 * record.gpus > limits.max_gpus:
        reason = f"another replica would leave no GPUs for a hand-over: your limit is {limits.max_gpus} GPUs"
        return [Action(ActionKind.NOTHING, reason)]
    if limits.max_running is not None and limits.running + 2 > limits.max_running:
        return [Action(ActionKind.NOTHING, "another replica would leave no running job for a hand-over")]
    if _free_gpus(record, limits, now) is not None:
        return []
    reason = f"{load.waiting} requests wait, the KV cache is {load.kv_use:.0%} full: replica {held + 1}"
    return _submission(record, limits, wanted, now, Action(ActionKind.SUBMIT, reason))


def _submission(
    record: RecordView, limits: ServiceLimits, wanted: Wanted, now: datetime, action: Action
) -> list[Action]:
    """Return the action with its walltime, or why Slurm is not asked."""
    full = _full(limits)
    if full:
        return [Action(ActionKind.NOTHING, full)]
    run = _run(record, limits, wanted, None, now)
    if run.problem:
        return [Action(ActionKind.NOTHING if run.walltime_s else ActionKind.PAUSE, run.problem)]
    reason = f"{action.reason}; {run.note}" if run.note else action.reason
    begin = run.begin or action.begin
    return [Action(action.kind, reason, walltime_s=run.walltime_s, begin=begin, replaces=action.replaces)]


def _full(limits: ServiceLimits) -> str:
    """Return which limit refuses another job now, empty if none does."""
    if limits.slots_free <= 0:
        return "all slots of the gateway are in use"
    if limits.max_submitted is not None and limits.submitted >= limits.max_submitted:
        return f"the partition takes {limits.max_submitted} job(s) of yours at a time, and you have {limits.submitted}"
    return ""


def _over_gpus(record: RecordView, limits: ServiceLimits) -> bool:
    return limits.max_gpus is not None and limits.gpus_in_use + record.gpus > limits.max_gpus


def _run(record: RecordView, limits: ServiceLimits, wanted: Wanted, start: datetime | None, now: datetime) -> _Run:
    """Return the walltime, shortened to what is wanted, paid for, and free before maintenance."""
    full_s = min(record.walltime_s, limits.max_walltime_s or record.walltime_s)
    least_s = max(SHORTEST_S, limits.startup_s + min(limits.longest_answer_s, full_s / 4))
    if not limits.is_start_measured:
        # a guess refuses nothing: the first start shows how long it takes
        least_s = max(SHORTEST_S, min(least_s, full_s))
    if full_s < least_s:
        return _Run(0.0, problem=too_short(full_s, limits.startup_s, limits.longest_answer_s))
    first = start or now
    wanted_s, note = full_s, ""
    if wanted.ends_at is not None:
        until_end = (wanted.ends_at - first).total_seconds() + limits.longest_answer_s + RETRY_S
        wanted_s = max(least_s, min(wanted_s, until_end))
    for use in limits.budgets:
        paid_s = max(0.0, use.limit - use.used) * 3600 / max(record.gpus, 1)
        if now + timedelta(seconds=min(paid_s, full_s)) >= use.period.end or paid_s >= wanted_s:
            continue
        if paid_s < least_s:
            return _Run(paid_s or 1.0, problem=f"what is left of the budget of {use.scope} is less than a start takes")
        wanted_s, note = paid_s, f"shortened to {span(paid_s)}, what is left of the budget of {use.scope}"
    return _before_maintenance(limits, wanted_s, least_s, first, record.policy.zone, note, now)


def _before_maintenance(
    limits: ServiceLimits, walltime_s: float, least_s: float, first: datetime, zone: str, note: str, now: datetime
) -> _Run:
    """Return a run that ends before the next reservation, or begins after it if too little time is left."""
    expected = first + timedelta(seconds=limits.queue_s if first <= now else 0.0)
    for window in sorted(limits.maintenance, key=lambda w: w.start):
        free_s = (window.start - expected).total_seconds() - MARGIN_S
        if window.end <= expected or free_s >= walltime_s:
            continue
        at = clock(window.start, now, zone)
        if free_s >= 2 * least_s:
            note = f"shortened to {span(free_s)}, to end before the maintenance of {at}"
            return _Run(free_s, note=note)
        after = clock(window.end, now, zone)
        return _Run(walltime_s, begin=window.end, note=f"maintenance from {at}: it starts after {after}")
    return _Run(walltime_s, note=note)


def _after_maintenance(record: RecordView, limits: ServiceLimits, wanted: Wanted, now: datetime) -> datetime | None:
    """Return before when maintenance lets no job start that is submitted now, None if it does not."""
    during = [window.end for window in limits.maintenance if window.contains(now)]
    return max(during, default=None) or _run(record, limits, wanted, None, now).begin


def _free_gpus(record: RecordView, limits: ServiceLimits, now: datetime) -> list[Action] | None:
    """Return what must be parked or waited for before a first job, None if nothing is in the way."""
    group = record.policy.exclusive_group
    sharing = [rival for rival in limits.rivals if group is not None and rival.exclusive_group == group]
    busy = [rival for rival in sharing if not _may_be_parked(rival, now)]
    if busy:
        rival = busy[0]
        state = "is loading" if rival.ready_at is None else "is in use" if rival.may_park else "is kept"
        return [Action(ActionKind.NOTHING, f"{rival.alias} of the same group {state}; this one starts when it is idle")]
    if not sharing and not _over_gpus(record, limits):
        return None
    chosen = list(sharing)
    excess = limits.gpus_in_use + record.gpus - sum(r.gpus for r in sharing) - (limits.max_gpus or 1 << 30)
    for rival in sorted(limits.rivals, key=lambda r: r.last_request_end or r.ready_at or now):
        if excess > 0 and rival not in sharing and _may_be_parked(rival, now):
            chosen.append(rival)
            excess -= rival.gpus
    if excess > 0 or not chosen:
        # nothing can be parked for it: Slurm queues it until the user's other jobs end
        chosen = list(sharing)
    reason = f"idle, and {record.alias} needs its GPUs"
    return [Action(ActionKind.PARK_RIVAL, reason, deployment=rival.id) for rival in chosen] or None


def _may_be_parked(rival: Rival, now: datetime) -> bool:
    """Tell whether another deployment may be parked: on demand, idle, and there for its own start-up time."""
    if not rival.may_park or rival.open_streams or rival.ready_at is None:
        return False
    since = max(rival.ready_at, rival.last_request_end or rival.ready_at)
    return (now - since).total_seconds() >= max(rival.startup_s, RIVAL_IDLE_S)
