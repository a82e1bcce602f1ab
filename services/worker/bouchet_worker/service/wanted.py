"""Whether a deployment is wanted now, why, and until when: keep, hours, demand, idleness and budgets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from bouchet_core.policy.weekly import last_end, next_window, window_at

from .inputs import BudgetUse, JobView, RecordView, ServiceLimits, ServiceLoad
from .sentences import clock, span

# a request that no proxy holds any more wakes nothing after this time
DEMAND_FRESH = timedelta(minutes=3)
# a job for coming hours is submitted that long ahead, so that it starts while the worker's computer sleeps
ADVANCE = timedelta(hours=72)
# a pending job for coming hours that would begin this much too early is replaced
BEGIN_TOLERANCE = timedelta(hours=1)


@dataclass(frozen=True)
class Wanted:
    """The places that a deployment should hold at the moment, each by one job."""

    count: int
    reason: str
    # when it is no longer wanted whatever clients do: no job need run longer
    ends_at: datetime | None = None
    # nothing will want it again
    is_over: bool = False


@dataclass(frozen=True)
class PlannedStart:
    """A start that the policy has a time for. begin: when a job should start to be ready then; end: None if open."""

    start: datetime
    end: datetime | None
    begin: datetime


def wanted(record: RecordView, load: ServiceLoad, limits: ServiceLimits, now: datetime) -> Wanted:
    """Return how many places to hold now. The end of `keep` comes first, then budgets, hours, and demand."""
    policy = record.policy
    if isinstance(policy.keep, datetime) and now >= policy.keep and not policy.on_demand:
        return Wanted(0, f"it was kept until {clock(policy.keep, now, policy.zone)}", is_over=True)
    spent = spent_budget(limits)
    if spent is not None:
        until = clock(spent.period.end, now, policy.zone)
        return Wanted(0, f"the budget of {spent.scope} ({spent.text}) is used up until {until}")
    holder = _holder(record, limits, now)
    if holder is None and policy.begin is not None and now < policy.begin:
        return Wanted(0, f"it begins at {clock(policy.begin, now, policy.zone)}")
    if holder is None:
        return _by_demand(record, load, now)
    idle = idle_reason(record, load, now, policy.idle_limit_s(record.idle_s), holder.since)
    parked = record.parked_at
    stays_parked = parked is not None and (holder.since is None or parked >= holder.since)
    if parked is not None and stays_parked and not record.jobs and not has_demand(load, now):
        idle = f"it is parked since {clock(parked, now, policy.zone)}; a request wakes it"
    if idle is not None:
        return Wanted(0, idle)
    return Wanted(policy.replicas.low, holder.reason, None if policy.on_demand else holder.ends_at)


def spent_budget(limits: ServiceLimits) -> BudgetUse | None:
    """Return the budget that is used up and renewed last, None if each has something left."""
    spent = [use for use in limits.budgets if use.share >= 1]
    return max(spent, key=lambda use: use.period.end, default=None)


def has_demand(load: ServiceLoad, now: datetime) -> bool:
    """Tell whether a client waits for the model, or asked for it a moment ago."""
    return load.held > 0 or (load.demand_at is not None and abs(now - load.demand_at) < DEMAND_FRESH)


def planned_start(record: RecordView, limits: ServiceLimits, now: datetime) -> PlannedStart | None:
    """Return the next start that its policy has a time for, None if there is none before `keep` ends."""
    policy = record.policy
    earliest = max(now, policy.begin or now)
    if policy.hours is not None:
        window = (window_at(policy.hours, earliest) if earliest > now else None) or next_window(policy.hours, earliest)
        if window is None:
            return None
        start, end = max(window.start, earliest), window.end
        previous = last_end(policy.hours, now)
    elif earliest > now and policy.renews:
        start, end, previous = earliest, None, None
    else:
        return None
    if isinstance(policy.keep, datetime) and start >= policy.keep:
        return None
    # several replicas start one after the other
    lead = timedelta(seconds=(limits.queue_s + limits.startup_s) * policy.replicas.low)
    return PlannedStart(start, end, start - lead if previous is None else max(start - lead, previous))


def is_early(job: JobView, planned: PlannedStart | None, limits: ServiceLimits) -> bool:
    """Tell whether the job was submitted for the planned start, and at the right time."""
    if job.begin_at is None or planned is None:
        return False
    if job.begin_at > planned.start and not _is_delayed(job.begin_at, planned, limits):
        return False
    return planned.begin - job.begin_at <= BEGIN_TOLERANCE


def _is_delayed(begin: datetime, planned: PlannedStart, limits: ServiceLimits) -> bool:
    """Tell whether maintenance, which leaves too little time before it, is over then."""
    too_little = timedelta(seconds=limits.queue_s + 2 * (limits.startup_s + limits.longest_answer_s))
    return any(window.end == begin and window.start < planned.start + too_little for window in limits.maintenance)


def idle_reason(
    record: RecordView, load: ServiceLoad, now: datetime, limit_s: float, since: datetime | None = None
) -> str | None:
    """Return for how long nothing was asked of it, None while that is within the limit. since: counted from then on.

    Counted from the end of the last request; never while it loads, answers or holds requests.
    """
    if not limit_s or has_demand(load, now) or load.waiting:
        return None
    jobs = [job for job in record.jobs if not _waits_for_begin(job, now)]
    if not jobs:
        last = record.last_end
        return last.reason if last is not None and last.was_idle and record.parked_at is None else None
    if any(job.is_coming or job.open_streams for job in jobs):
        return None
    # a successor that becomes ready is no reason to wait longer
    starts = [job.ready_at for job in jobs if not job.replaces] or [job.ready_at for job in jobs]
    moments = [since, load.last_request_end, *starts, *(job.last_request_end for job in jobs)]
    idle_since = max((moment for moment in moments if moment is not None), default=now)
    idle_s = (now - idle_since).total_seconds()
    return f"no request for {span(idle_s)}" if idle_s >= limit_s else None


@dataclass(frozen=True)
class _Holder:
    """The hours or the `keep` that want it whatever clients do, since when and until when."""

    reason: str
    since: datetime | None = None
    ends_at: datetime | None = None


def _holder(record: RecordView, limits: ServiceLimits, now: datetime) -> _Holder | None:
    """Return what holds it open now, None if that is for clients to ask."""
    policy = record.policy
    kept_until = policy.keep if isinstance(policy.keep, datetime) else None
    if kept_until is not None and now >= kept_until:
        return None
    planned = planned_start(record, limits, now)
    has_begun = policy.begin is None or now >= policy.begin
    window = window_at(policy.hours, now) if policy.hours is not None and has_begun else None
    if window is not None:
        ends_at = min(window.end, kept_until or window.end)
        return _Holder(f"its hours are {policy.hours}", window.start, ends_at)
    if planned is not None and now >= planned.begin:
        ends = [end for end in (planned.end, kept_until) if end is not None]
        reason = f"it is to be ready at {clock(planned.start, now, policy.zone)}"
        return _Holder(reason, planned.start, min(ends, default=None))
    if policy.hours is not None or not has_begun or not policy.kept_at(now):
        return None
    until = f"it is kept until {clock(kept_until, now, policy.zone)}" if kept_until else "it is kept until you end it"
    return _Holder(until, policy.begin, kept_until)


def _by_demand(record: RecordView, load: ServiceLoad, now: datetime) -> Wanted:
    """Return whether clients want it: they wait, or asked within the idle limit."""
    policy = record.policy
    if not policy.on_demand:
        return Wanted(0, f"it is outside its hours ({policy.hours})")
    if all(_waits_for_begin(job, now) for job in record.jobs):
        if not has_demand(load, now):
            return Wanted(0, "it is parked; a request wakes it")
        return Wanted(policy.replicas.low, "a request asks for it")
    idle = idle_reason(record, load, now, record.idle_s)
    return Wanted(policy.replicas.low, "it is in use") if idle is None else Wanted(0, idle)


def _waits_for_begin(job: JobView, now: datetime) -> bool:
    return job.begin_at is not None and job.begin_at > now and job.started_at is None
