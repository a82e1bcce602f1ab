"""`plan`: what is to be done for one deployment now. Pure and total: no socket, no clock, an answer to every input.

The worker carries the actions out and asks again; every action is safe to repeat. Rules, in this order:

1. Nothing is decided from an old picture of the cluster (an outage, a computer that slept).
2. What is not wanted (hours, idle, budget, end of `keep`) takes no new requests and is parked at zero open streams.
3. A job with a ready successor, or that ends sooner than an answer may take, takes no new conversations; it is
   cancelled at zero open streams.
4. One job at a time is submitted: for a place that is empty, for a job that ends, for a load that lasts.
"""

from __future__ import annotations

from datetime import datetime

from .inputs import Action, ActionKind, BudgetUse, RecordView, ServiceLimits, ServiceLoad
from .retirement import clock_was_set_back, finish, retire, wind_down
from .sentences import clock, not_seen
from .submission import submit
from .wanted import wanted

# the reconcile loop queries Slurm every few seconds
OBSERVED_S = 90.0
WARN_SHARE = 0.8


def plan(record: RecordView, load: ServiceLoad, limits: ServiceLimits, now: datetime) -> tuple[Action, ...]:
    """Return the next actions, one with the reason for waiting if there is nothing to do. now is timezone-aware."""
    if record.is_stopping:
        return (Action(ActionKind.NOTHING, "it is being cancelled"),)
    seen_s = abs((now - limits.observed_at).total_seconds())
    if seen_s > OBSERVED_S:
        return (Action(ActionKind.NOTHING, not_seen(seen_s)),)
    if set_back := clock_was_set_back(record, now):
        return tuple(set_back)
    if not record.policy.is_managed:
        unmanaged = Action(ActionKind.NOTHING, "it has no policy: its job runs to its end")
        return tuple(finish(record, now)) or (unmanaged,)
    target = wanted(record, load, limits, now)
    if target.count:
        actions = retire(record, load, limits, target, now)
    else:
        actions = wind_down(record, load, limits, target, now)
    if not any(action.kind in (ActionKind.PARK, ActionKind.END, ActionKind.TAKE_BACK) for action in actions):
        retired = {action.job for action in actions if action.kind is ActionKind.RETIRE}
        actions += [a for a in submit(record, load, limits, target, now) if a.job is None or a.job not in retired]
    actions += _warnings(record, limits, now)
    return tuple(actions) or (Action(ActionKind.NOTHING, target.reason),)


def _warnings(record: RecordView, limits: ServiceLimits, now: datetime) -> list[Action]:
    """Return the warning of the budget that is nearly used up, once in its period."""
    near = [use for use in limits.budgets if WARN_SHARE <= use.share < 1]
    if not near:
        return []
    use = max(near, key=lambda u: u.share)
    if record.warned_for is not None and record.warned_for >= use.period.start:
        return []
    return [Action(ActionKind.WARN, warning(use, now, record.policy.zone))]


def warning(use: BudgetUse, now: datetime, zone: str) -> str:
    """Return the sentence about a budget of which little is left."""
    until = clock(use.period.end, now, zone)
    return f"{use.share:.0%} of the budget of {use.scope} ({use.text}) are used; it begins again {until}"
