"""Views for tests of `plan`: a deployment on one GPU at a Monday noon in Connecticut, and what changes about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.deployments import Phase
from bouchet_core.policy import Policy, parse_hours
from bouchet_worker.service.inputs import Action, JobView, RecordView, ServiceLimits, ServiceLoad
from bouchet_worker.service.plan import plan

YALE = "America/New_York"
# Monday, 12:00 in Connecticut
NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)
KEPT = Policy(keep="forever", zone=YALE)
ON_DEMAND = Policy(on_demand=True, zone=YALE)
OFFICE = Policy(hours=parse_hours("mon-fri 08:30-18:00", YALE), zone=YALE)
LIMITS = ServiceLimits(NOW, queue_s=600, startup_s=300, longest_answer_s=400)


def ago(**amount: float) -> datetime:
    """Return a time before NOW."""
    return NOW - timedelta(**amount)


def ahead(**amount: float) -> datetime:
    """Return a time after NOW."""
    return NOW + timedelta(**amount)


def ready(name: str = "job-1", *, left_s: float = 4 * 3600, **fields: Any) -> JobView:
    """Return a job of six hours that serves; its last request has just ended."""
    end = ahead(seconds=left_s)
    start = end - timedelta(hours=6)
    job = JobView(name, Phase.READY, 1, start, start, end, start + timedelta(minutes=5), last_request_end=NOW)
    return replace(job, **fields)


def queued(name: str = "job-2", **fields: Any) -> JobView:
    """Return a job that waits since a minute."""
    return replace(JobView(name, Phase.QUEUED, 1, ago(minutes=1)), **fields)


def starting(name: str = "job-2", **fields: Any) -> JobView:
    """Return a job that loads since a minute."""
    job = JobView(name, Phase.STARTING, 1, ago(minutes=2), ago(minutes=1), ahead(hours=6))
    return replace(job, **fields)


def record(policy: Policy, *jobs: JobView, **fields: Any) -> RecordView:
    """Return a deployment with these live jobs."""
    return replace(RecordView("aa", "coder", policy, jobs), **fields)


def planned(
    view: RecordView, load: ServiceLoad | None = None, limits: ServiceLimits = LIMITS, now: datetime = NOW
) -> list[tuple[str, str | None]]:
    """Return kind and job of each action; a submission names the job that it replaces."""
    limits = limits if limits is not LIMITS else replace(LIMITS, observed_at=now)
    return [(action.kind.value, action.job or action.replaces) for action in actions(view, load, limits, now)]


def actions(
    view: RecordView, load: ServiceLoad | None = None, limits: ServiceLimits = LIMITS, now: datetime = NOW
) -> tuple[Action, ...]:
    """Return the plan."""
    return plan(view, load or ServiceLoad(), limits, now)
