"""`plan` over all inputs: it answers, never cuts an answer, never submits twice."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bouchet_core.deployments import Phase
from bouchet_core.policy import Budget, Hours, Policy, Replicas, parse_hours
from bouchet_core.policy.weekly import Span
from bouchet_worker.service.inputs import (
    Action,
    ActionKind,
    BudgetUse,
    JobEnd,
    JobView,
    RecordView,
    Rival,
    ServiceLimits,
    ServiceLoad,
)
from bouchet_worker.service.plan import plan
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 30, 14, 0, tzinfo=UTC)
# two cores of 2026 make 18,000 calls in 10 ms
MOST_CALLS = 30_000
SUBMISSIONS = {ActionKind.SUBMIT, ActionKind.WAKE}
CANCELLATIONS = {ActionKind.RETIRE, ActionKind.PARK, ActionKind.END}

seconds = st.floats(0, 200_000, allow_nan=False)
moments = st.integers(-400_000, 400_000).map(lambda s: NOW + timedelta(seconds=s))
maybe_moments = st.none() | moments
hours: st.SearchStrategy[Hours] = st.sampled_from(
    [parse_hours(text, "America/New_York") for text in ("mon-fri 08:30-18:00", "daily 22-2", "sat 10-11")]
)
policies = st.builds(
    Policy,
    keep=st.sampled_from(["off", "forever"]) | moments,
    on_demand=st.booleans(),
    replicas=st.sampled_from([Replicas(), Replicas(low=1, high=3), Replicas(low=2, high=2)]),
    hours=st.none() | hours,
    budget=st.none() | st.just(Budget(amount=40)),
    begin=maybe_moments,
    exclusive_group=st.none() | st.just("small"),
)
jobs = st.builds(
    JobView,
    name=st.sampled_from(["job-1", "job-2", "job-3", "job-4"]),
    phase=st.sampled_from([phase for phase in Phase if phase is not Phase.ENDED]),
    gpus=st.integers(0, 16),
    submitted_at=moments,
    started_at=maybe_moments,
    ends_at=maybe_moments,
    ready_at=maybe_moments,
    begin_at=maybe_moments,
    open_streams=st.integers(0, 3),
    last_request_end=maybe_moments,
    leaving_since=maybe_moments,
    replaces=st.none() | st.sampled_from(["job-1", "job-2", "job-3", "job-4", "job-0"]),
)
records = st.builds(
    RecordView,
    id=st.just("aa"),
    alias=st.just("coder"),
    policy=policies,
    jobs=st.lists(jobs, max_size=4, unique_by=lambda job: job.name).map(tuple),
    gpus=st.integers(0, 16),
    walltime_s=seconds,
    idle_s=st.sampled_from([0.0, 60.0, 2700.0]),
    failed_starts=st.integers(0, 5),
    last_end=st.none() | st.builds(JobEnd, moments, st.just("the node failed"), st.booleans()),
    paused=st.sampled_from(["", "3 starts failed"]),
    is_stopping=st.booleans(),
    parked_at=maybe_moments,
    warned_for=maybe_moments,
)
loads = st.builds(
    ServiceLoad,
    waiting=st.integers(0, 50),
    kv_use=st.floats(0, 1),
    high_since=maybe_moments,
    backlog_s=st.none() | seconds,
    held=st.integers(0, 3),
    demand_at=maybe_moments,
    last_request_end=maybe_moments,
)
spans = st.builds(lambda start, length: Span(start, start + timedelta(seconds=length + 1)), moments, seconds)
rivals = st.builds(
    Rival,
    id=st.just("bb"),
    alias=st.just("other"),
    gpus=st.integers(0, 16),
    ready_at=maybe_moments,
    last_request_end=maybe_moments,
    startup_s=seconds,
    open_streams=st.integers(0, 1),
    may_park=st.booleans(),
    exclusive_group=st.none() | st.just("small"),
)
limits = st.builds(
    ServiceLimits,
    observed_at=st.just(NOW) | moments,
    max_gpus=st.none() | st.integers(0, 32),
    gpus_in_use=st.integers(0, 40),
    max_running=st.none() | st.integers(1, 6),
    running=st.integers(0, 6),
    max_submitted=st.none() | st.integers(1, 6),
    submitted=st.integers(0, 6),
    max_walltime_s=st.none() | seconds,
    slots_free=st.integers(0, 8),
    queue_s=seconds,
    startup_s=seconds,
    longest_answer_s=seconds,
    maintenance=st.lists(spans, max_size=2),
    budgets=st.lists(st.builds(BudgetUse, seconds, seconds, spans, text=st.just("40 GPU hours a week")), max_size=2),
    rivals=st.lists(rivals, max_size=2),
)


def cancelled(record: RecordView, actions: tuple[Action, ...]) -> list[JobView]:
    """Return the jobs that the actions cancel."""
    if any(action.kind in (ActionKind.PARK, ActionKind.END) for action in actions):
        return list(record.jobs)
    names = {action.job for action in actions if action.kind is ActionKind.RETIRE}
    return [job for job in record.jobs if job.name in names]


@given(records, loads, limits)
def test_plan_of_any_input_is_safe(record: RecordView, load: ServiceLoad, limits: ServiceLimits) -> None:
    actions = plan(record, load, limits, NOW)
    assert actions and all(action.reason and "\n" not in action.reason for action in actions)
    assert actions == plan(record, load, limits, NOW)
    # no answer is cut
    assert [job for job in cancelled(record, actions) if job.open_streams] == []
    # at most one job is on its way
    submissions = [action for action in actions if action.kind in SUBMISSIONS]
    assert len(submissions) <= (0 if any(job.is_coming for job in record.jobs) else 1)
    # no job is cancelled twice or both cancelled and used
    named = [action.job for action in actions if action.job is not None]
    assert len(named) == len(set(named)) and set(named) <= {job.name for job in record.jobs}
    for action in submissions:
        assert action.walltime_s is not None and action.walltime_s > 0
        assert limits.slots_free > 0 and not record.paused and record.failed_starts < 3
        assert all(use.share < 1 for use in limits.budgets) or action.begin is not None
    kinds = [action.kind for action in actions]
    if abs((NOW - limits.observed_at).total_seconds()) > 90 or record.is_stopping:
        assert kinds == [ActionKind.NOTHING]
    if not record.policy.is_managed:
        # a hand-over that had begun is finished
        assert set(kinds) <= {ActionKind.NOTHING, ActionKind.HAND_OVER, ActionKind.TAKE_BACK, ActionKind.RETIRE}
        assert not all(job in cancelled(record, actions) for job in record.jobs) or not record.jobs


@given(records, loads, limits)
def test_plan_after_nothing_changed_does_not_hand_over_and_take_back(
    record: RecordView, load: ServiceLoad, limits: ServiceLimits
) -> None:
    actions = plan(record, load, limits, NOW)
    left = {job.name for job in record.jobs if job.leaving_since is not None}
    handed = {action.job for action in actions if action.kind is ActionKind.HAND_OVER} - left
    after = replace(
        record, jobs=tuple(replace(job, leaving_since=NOW) if job.name in handed else job for job in record.jobs)
    )
    again = plan(after, load, limits, NOW)
    back = {action.job for action in again if action.kind is ActionKind.TAKE_BACK}
    assert handed & back == set()


def test_plan_of_two_hundred_deployments_takes_few_steps() -> None:
    """Count function calls, which a busy machine does not change. The aim is 20 ms."""
    office = parse_hours("mon-fri 08:30-18:00", "America/New_York")
    start = NOW - timedelta(hours=2)
    job = JobView("job-1", Phase.READY, 1, start, start, start + timedelta(hours=6), start, last_request_end=NOW)
    kept = RecordView("aa", "coder", Policy(keep="forever"), (job,))
    mixed = (
        kept,
        replace(kept, policy=Policy(hours=office, on_demand=True, zone="America/New_York")),
        replace(kept, policy=Policy(on_demand=True), jobs=()),
        replace(kept, policy=Policy(keep="forever", replicas=Replicas(low=1, high=3))),
    )
    inputs = [(record, ServiceLoad(), ServiceLimits(NOW)) for record in mixed * 50]
    calls = Counter[str]()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: calls.update((event,)))
    try:
        for record, load, limits in inputs:
            plan(record, load, limits, NOW)
    finally:
        sys.setprofile(before)
    assert 200 <= calls["call"] <= MOST_CALLS, calls
