"""`plan` by demand, hours, load and budget: wake, park, replicas, groups."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.policy import Policy, Replicas, parse_hours
from bouchet_core.policy.weekly import Span
from bouchet_worker.service.inputs import ActionKind, BudgetUse, JobEnd, JobView, Rival, ServiceLoad

from tests.worker.service.views import (
    KEPT,
    LIMITS,
    NOW,
    OFFICE,
    ON_DEMAND,
    YALE,
    actions,
    ago,
    ahead,
    planned,
    queued,
    ready,
    record,
    starting,
)

NOTHING = [("nothing", None)]
HELD = ServiceLoad(held=1, demand_at=NOW)
PARKED = record(ON_DEMAND, parked_at=ago(hours=1))


def idle(minutes: float, **fields: object) -> JobView:
    """Return a serving job whose last request ended so long ago."""
    return replace(ready(last_request_end=ago(minutes=minutes)), **fields)  # type: ignore[arg-type]


def test_plan_of_a_parked_model_wakes_for_a_request() -> None:
    assert planned(PARKED) == NOTHING
    (action,) = actions(PARKED, HELD)
    assert (action.kind, action.reason) == (ActionKind.WAKE, "a request asks for it")
    # the request's stream is no longer held, but it was asked a moment ago
    assert planned(PARKED, ServiceLoad(demand_at=ago(seconds=100))) == [("wake", None)]
    assert planned(PARKED, ServiceLoad(demand_at=ago(hours=9))) == NOTHING


def test_plan_of_a_new_on_demand_deployment_parks_it() -> None:
    assert planned(record(ON_DEMAND)) == [("park", None)]


def test_plan_parks_from_the_end_of_the_last_request() -> None:
    assert planned(record(ON_DEMAND, idle(44))) == NOTHING
    assert planned(record(ON_DEMAND, idle(46))) == [("hand_over", "job-1")]
    (action,) = actions(record(ON_DEMAND, idle(46, leaving_since=ago(seconds=10))))
    assert (action.kind, action.reason) == (ActionKind.PARK, "no request for 46 min")


@pytest.mark.parametrize(
    ("jobs", "load"),
    [
        ((idle(50, open_streams=1),), ServiceLoad()),
        ((idle(50),), ServiceLoad(held=1)),
        ((idle(50),), ServiceLoad(waiting=1)),
        ((starting(),), ServiceLoad(last_request_end=ago(hours=2))),
        ((queued(),), ServiceLoad(last_request_end=ago(hours=2))),
        # woken 40 minutes ago, and no request came yet
        ((ready(ready_at=ago(minutes=40), last_request_end=None),), ServiceLoad(last_request_end=ago(hours=2))),
    ],
)
def test_plan_never_parks_while_it_loads_answers_or_holds(jobs: tuple[JobView, ...], load: ServiceLoad) -> None:
    assert {kind for kind, _ in planned(record(ON_DEMAND, *jobs), load)} <= {"nothing"}


def test_plan_takes_back_what_it_was_about_to_park_when_a_request_comes() -> None:
    leaving = idle(46, leaving_since=ago(seconds=3))
    assert planned(record(ON_DEMAND, leaving), HELD) == [("take_back", "job-1")]


def test_plan_of_kept_but_idle_parks_and_wakes_for_a_request() -> None:
    assert planned(record(KEPT, idle(46))) == [("hand_over", "job-1")]
    assert planned(record(KEPT, parked_at=ago(minutes=5))) == NOTHING
    assert planned(record(KEPT, parked_at=ago(minutes=5)), HELD) == [("wake", None)]
    # a person wants it there although nothing asks for it
    assert planned(record(KEPT, idle(300), idle_s=0.0)) == NOTHING
    # the job itself was faster
    ended = record(KEPT, last_end=JobEnd(ago(seconds=20), "idle for 45 min", was_idle=True))
    assert planned(ended) == [("park", None)]


def at(text: str) -> datetime:
    """Return a time of Connecticut."""
    return datetime.fromisoformat(text + "-05:00").astimezone(UTC)


def test_plan_of_hours_starts_in_advance_and_retires_at_their_end() -> None:
    evening = at("2026-11-30T18:00:00")
    serving = replace(ready(), ends_at=evening + timedelta(hours=1), last_request_end=evening)
    assert planned(record(OFFICE, serving), now=evening) == [("hand_over", "job-1")]
    leaving = replace(serving, leaving_since=evening)
    assert planned(record(OFFICE, leaving), now=evening + timedelta(seconds=9)) == [("park", None)]
    parked = record(OFFICE, parked_at=evening + timedelta(seconds=9))
    limits = replace(LIMITS, observed_at=evening + timedelta(seconds=20))
    (action,) = actions(parked, limits=limits, now=limits.observed_at)
    assert action.kind is ActionKind.SUBMIT
    # queue 10 min and start 5 min before 08:30
    assert action.begin == at("2026-12-01T08:15:00")
    assert action.reason == "to be ready at Tue 08:30: it starts at Tue 08:15 at the earliest"
    waits = queued(begin_at=action.begin)
    assert planned(record(OFFICE, waits), now=evening + timedelta(hours=6)) == NOTHING


def test_plan_of_hours_keeps_a_job_that_is_early_and_cancels_one_for_other_hours() -> None:
    early = at("2026-12-01T08:20:00")
    loading = starting(begin_at=at("2026-12-01T08:15:00"), started_at=at("2026-12-01T08:16:00"))
    assert planned(record(OFFICE, loading), now=early) == NOTHING
    changed = Policy(hours=parse_hours("mon-fri 12:30-18:00", YALE), zone=YALE)
    waits = queued(begin_at=at("2026-12-02T08:15:00"))
    assert planned(record(changed, waits), now=at("2026-12-01T20:00:00")) == [("park", None)]


def test_plan_of_hours_without_a_job_starts_late_rather_than_never() -> None:
    assert planned(record(OFFICE, parked_at=ago(hours=20))) == [("submit", None)]
    # parked within these hours: only a request wakes it before the next ones
    (action,) = actions(record(OFFICE, parked_at=ago(hours=1)))
    assert action.begin == at("2026-12-01T08:15:00")
    assert planned(record(OFFICE, queued(begin_at=action.begin), parked_at=ago(hours=1)), HELD) == [("retire", "job-2")]


def test_plan_of_hours_outlasts_a_lunch_and_parks_before_the_site_does() -> None:
    assert planned(record(OFFICE, idle(75))) == NOTHING
    assert planned(record(OFFICE, idle(101))) == [("hand_over", "job-1")]


def test_plan_of_hours_and_on_demand_wakes_at_night() -> None:
    policy = OFFICE.model_copy(update={"on_demand": True})
    night = at("2026-11-30T22:00:00")
    load = ServiceLoad(held=1, demand_at=night)
    limits = replace(LIMITS, observed_at=night)
    assert planned(record(policy, parked_at=at("2026-11-30T18:45:00")), load, limits, night) == [("wake", None)]
    waits = queued(begin_at=at("2026-12-01T08:15:00"))
    assert planned(record(policy, waits), load, limits, night) == [("retire", "job-2")]
    # at 18:00 it goes on for a person who does
    late = at("2026-11-30T18:30:00")
    serving = replace(ready(), ends_at=late + timedelta(hours=1), last_request_end=late)
    assert planned(record(policy, serving), now=late) == NOTHING


def test_plan_of_begin_waits_for_it() -> None:
    policy = Policy(keep="forever", begin=ahead(hours=5), zone=YALE)
    assert planned(record(policy)) == [("park", None)]
    (action,) = actions(record(policy, parked_at=NOW))
    assert (action.kind, action.begin) == (ActionKind.SUBMIT, ahead(hours=4, minutes=45))


HIGH = ServiceLoad(waiting=9, kv_use=0.9, high_since=ago(seconds=61), backlog_s=None)
UP_TO_3 = Policy(keep="forever", replicas=Replicas(low=1, high=3))


def test_plan_adds_a_replica_for_a_load_that_lasts() -> None:
    (action,) = actions(record(UP_TO_3, ready()), HIGH)
    assert (action.kind, action.reason) == (
        ActionKind.SUBMIT,
        "9 requests wait, the KV cache is 90% full: replica 2",
    )
    assert planned(record(UP_TO_3, ready()), replace(HIGH, high_since=ago(seconds=30))) == NOTHING
    assert planned(record(KEPT, ready()), HIGH) == NOTHING
    # at most one job is queued
    assert planned(record(UP_TO_3, ready(), queued()), HIGH) == NOTHING


def test_plan_adds_no_replica_that_would_come_too_late_or_take_the_hand_over_s_gpus() -> None:
    assert planned(record(UP_TO_3, ready()), replace(HIGH, backlog_s=800.0)) == NOTHING
    full = replace(LIMITS, max_gpus=16, gpus_in_use=8)
    (action,) = actions(record(UP_TO_3, ready(gpus=8), gpus=8), HIGH, full)
    assert action.reason == "another replica would leave no GPUs for a hand-over: your limit is 16 GPUs"


def test_plan_gives_back_a_replica_without_requests() -> None:
    first, second = ready(), ready("job-2", left_s=5 * 3600, last_request_end=ago(minutes=11))
    assert planned(record(UP_TO_3, first, second)) == [("hand_over", "job-2")]
    assert planned(record(UP_TO_3, first, replace(second, last_request_end=ago(minutes=9)))) == NOTHING
    assert planned(record(UP_TO_3, first, replace(second, open_streams=1))) == NOTHING


def test_plan_renews_replicas_one_after_the_other() -> None:
    policy = Policy(keep="forever", replicas=Replicas(low=2, high=2))
    first, second = ready(left_s=2000), ready("job-2", left_s=2100)
    # the second is due 1390 s before its end, the first 900 s earlier
    assert planned(record(policy, first, second)) == [("submit", "job-1")]
    assert planned(record(policy, first, second, queued("job-3", replaces="job-1"))) == NOTHING


def budget(used: float) -> BudgetUse:
    """Return the use of 40 GPU hours a week."""
    return BudgetUse(used, 40, Span(ago(hours=12), ahead(hours=156)), text="40 GPU hours a week")


def test_plan_warns_once_at_80_percent_of_the_budget_and_parks_at_100() -> None:
    near = replace(LIMITS, budgets=[budget(32.4)])
    assert planned(record(KEPT, ready()), limits=near) == [("warn", None)]
    assert planned(record(KEPT, ready(), warned_for=ago(hours=1)), limits=near) == NOTHING
    spent = replace(LIMITS, budgets=[budget(40.1)])
    assert planned(record(KEPT, ready(open_streams=1)), limits=spent) == [("hand_over", "job-1")]
    leaving = ready(open_streams=1, leaving_since=ago(minutes=1))
    assert planned(record(KEPT, leaving), limits=spent) == NOTHING
    (action,) = actions(record(KEPT, replace(leaving, open_streams=0)), limits=spent)
    assert action.kind is ActionKind.PARK
    assert action.reason.startswith("the budget of this deployment (40 GPU hours a week) is used up until 2026-12-07")
    assert planned(PARKED, HELD, spent) == NOTHING


def test_plan_submits_no_job_longer_than_the_budget_lasts() -> None:
    (action,) = actions(record(KEPT, gpus=4, warned_for=NOW), limits=replace(LIMITS, budgets=[budget(36)]))
    assert action.walltime_s == 3600
    assert "shortened to 60 min, what is left of the budget" in action.reason
    little = replace(LIMITS, budgets=[budget(39.9)])
    assert actions(replace(PARKED, warned_for=NOW), HELD, little)[0].reason.startswith(
        "what is left of the budget of this deployment"
    )


OTHER = Rival("bb", "glm", 8, ago(hours=2), ago(minutes=30), 300, may_park=True)


def test_plan_parks_an_idle_deployment_for_one_that_is_asked() -> None:
    full = replace(LIMITS, max_gpus=16, gpus_in_use=16, rivals=[OTHER, replace(OTHER, id="cc", last_request_end=NOW)])
    (action,) = actions(replace(PARKED, gpus=8), HELD, full)
    assert (action.kind, action.deployment) == (ActionKind.PARK_RIVAL, "bb")
    # where nothing can be parked for it, Slurm queues it
    assert planned(replace(PARKED, gpus=8), HELD, replace(full, rivals=[replace(OTHER, may_park=False)])) == [
        ("wake", None)
    ]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"open_streams": 1}, "is in use"),
        ({"ready_at": None}, "is loading"),
        ({"may_park": False}, "is kept"),
        # asked a moment ago, or woken for less than its own start-up
        ({"last_request_end": ago(seconds=100)}, "is in use"),
        ({"ready_at": ago(seconds=290), "last_request_end": None}, "is in use"),
    ],
)
def test_plan_of_a_group_waits_for_the_one_that_works(change: dict[str, object], state: str) -> None:
    policy = ON_DEMAND.model_copy(update={"exclusive_group": "h200"})
    grouped = replace(OTHER, exclusive_group="h200")
    view = record(policy, parked_at=ago(hours=1))
    assert planned(view, HELD, replace(LIMITS, rivals=[grouped])) == [("park_rival", None)]
    busy = replace(grouped, **change)  # type: ignore[arg-type]
    (action,) = actions(view, HELD, replace(LIMITS, rivals=[busy]))
    assert action.kind is ActionKind.NOTHING
    assert action.reason == f"glm of the same group {state}; this one starts when it is idle"
