"""`plan` keeps a deployment: renewal, late successors, failed starts, limits, maintenance, an old picture."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.policy import OFF, Policy, Replicas
from bouchet_core.policy.weekly import Span
from bouchet_worker.service.inputs import ActionKind, JobEnd, ServiceLoad

from tests.worker.service.views import (
    KEPT,
    LIMITS,
    NOW,
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
# queue 600 + start 300 + answer 400 + margin 90
LEAD_S = 1390


def test_plan_without_policy_does_nothing() -> None:
    assert planned(record(OFF, ready(left_s=60))) == NOTHING
    assert planned(record(OFF)) == NOTHING


def test_plan_renews_when_the_successor_would_be_ready_just_in_time() -> None:
    assert planned(record(KEPT, ready(left_s=LEAD_S + 30))) == NOTHING
    (action,) = actions(record(KEPT, ready(left_s=LEAD_S - 30)))
    assert (action.kind, action.replaces) == (ActionKind.SUBMIT, "job-1")
    assert action.reason == "23 min left: queue about 10 min, start 5 min, longest answer 7 min"
    assert action.walltime_s == 21_600


@pytest.mark.parametrize("successor", [queued(replaces="job-1"), starting(replaces="job-1")])
def test_plan_with_a_successor_on_its_way_submits_no_other(successor: object) -> None:
    assert isinstance(successor, type(queued()))
    assert planned(record(KEPT, ready(left_s=900), successor)) == NOTHING


def test_plan_hands_over_when_the_successor_is_ready_and_retires_at_zero_streams() -> None:
    successor = ready("job-2", replaces="job-1")
    old = ready(left_s=900, open_streams=1)
    assert planned(record(KEPT, old, successor)) == [("hand_over", "job-1")]
    leaving = replace(old, leaving_since=ago(seconds=60))
    assert planned(record(KEPT, leaving, successor)) == NOTHING
    done = replace(leaving, open_streams=0)
    assert planned(record(KEPT, done, successor)) == [("retire", "job-1")]
    # a proxy may not have read the change yet
    assert planned(record(KEPT, replace(done, leaving_since=ago(seconds=1)), successor)) == NOTHING


@pytest.mark.parametrize("is_measured", [True, False])
def test_plan_of_a_walltime_of_nothing_pauses(is_measured: bool) -> None:
    limits = replace(LIMITS, startup_s=0, longest_answer_s=0, is_start_measured=is_measured)
    assert planned(record(KEPT, walltime_s=0.0), limits=limits) == [("pause", None)]
    assert planned(record(KEPT, walltime_s=2.0), limits=limits) == [("submit", None)]


def test_plan_of_a_requeued_job_whose_place_was_filled_keeps_the_one_that_serves_first() -> None:
    requeued = queued("job-1", submitted_at=ago(hours=2), start_estimate=ahead(minutes=4))
    after, before = queued(start_estimate=ahead(minutes=9)), queued(start_estimate=ahead(minutes=2))
    assert planned(record(KEPT, requeued, after)) == [("retire", "job-2"), ("nothing", None)]
    assert planned(record(KEPT, requeued, before)) == [("retire", "job-1"), ("nothing", None)]
    assert planned(record(KEPT, requeued, starting())) == [("retire", "job-1"), ("nothing", None)]
    assert planned(record(KEPT, requeued, ready("job-2"))) == [("retire", "job-1"), ("nothing", None)]
    # it is the next one of a job that ends
    assert planned(record(KEPT, queued("job-1"), ready("job-2", left_s=LEAD_S))) == NOTHING
    # of two replicas
    both = Policy(keep="forever", replicas=Replicas(low=2, high=2), zone=YALE)
    assert planned(record(both, requeued, starting())) == NOTHING
    # a load asks for another one, and there may be three: one of the two on their way is enough
    more = Policy(keep="forever", replicas=Replicas(low=1, high=3), zone=YALE)
    assert planned(record(more, ready("job-3"), starting())) == NOTHING
    assert planned(record(more, ready("job-3"), requeued, starting())) == [("retire", "job-1"), ("nothing", None)]


def test_plan_of_a_late_successor_takes_no_answer_that_would_be_cut() -> None:
    late = record(KEPT, ready(left_s=390), queued(replaces="job-1", start_estimate=ahead(minutes=20)))
    hand_over, waits = actions(late)
    assert (hand_over.kind, hand_over.job) == (ActionKind.HAND_OVER, "job-1")
    assert hand_over.reason.endswith("new requests wait for the next job (ready about 12:25)")
    assert waits.kind is ActionKind.NOTHING
    # an answer of at most a quarter of a short job's walltime
    short = ready(left_s=100, started_at=ago(seconds=140))
    assert planned(record(KEPT, short, queued(replaces="job-1"))) == NOTHING


def test_plan_of_a_long_queue_lets_each_job_serve_a_quarter_of_its_walltime() -> None:
    slow = replace(LIMITS, queue_s=50_000)
    assert planned(record(KEPT, ready(left_s=4.6 * 3600)), limits=slow) == NOTHING
    assert planned(record(KEPT, ready(left_s=4.4 * 3600)), limits=slow) == [("submit", "job-1")]


@pytest.mark.parametrize("reason", ["the node failed", "Slurm preempted the job"])
def test_plan_after_an_unexpected_end_submits_at_once_and_says_why(reason: str) -> None:
    (action,) = actions(record(KEPT, last_end=JobEnd(ago(seconds=5), reason)))
    assert action.kind is ActionKind.SUBMIT
    assert action.reason == f"{reason}; it is kept until you end it"


def test_plan_of_a_requeued_job_submits_no_other() -> None:
    assert planned(record(KEPT, queued("job-1"))) == NOTHING


def test_plan_retries_failed_starts_later_and_pauses_after_three() -> None:
    end = JobEnd(ago(seconds=30), "vLLM ran out of GPU memory")
    assert planned(record(KEPT, failed_starts=1, last_end=end)) == NOTHING
    assert planned(record(KEPT, failed_starts=1, last_end=replace(end, at=ago(seconds=61)))) == [("submit", None)]
    (action,) = actions(record(KEPT, failed_starts=3, last_end=end))
    assert action.kind is ActionKind.PAUSE
    assert action.reason.startswith("3 starts in a row failed; the last one: vLLM ran out of GPU memory.")
    assert planned(record(KEPT, paused="3 starts failed")) == NOTHING
    # what serves goes on
    assert planned(record(KEPT, ready(left_s=900), paused="3 starts failed")) == NOTHING


def test_plan_from_an_old_picture_of_the_cluster_changes_nothing() -> None:
    after_sleep = NOW + timedelta(hours=9)
    view = record(KEPT, ready(left_s=600), queued(replaces="job-1"))
    (action,) = actions(view, limits=LIMITS, now=after_sleep)
    assert action.kind is ActionKind.NOTHING
    assert action.reason == "the cluster was last queried 9 h ago; nothing is changed until it answers"
    # a clock that was set back
    assert actions(view, limits=LIMITS, now=NOW - timedelta(hours=1))[0].kind is ActionKind.NOTHING


def test_plan_on_waking_submits_one_job_for_all_that_ended() -> None:
    now = NOW + timedelta(hours=9)
    ended = record(KEPT, last_end=JobEnd(ago(hours=3), "its walltime was over"))
    assert planned(ended, now=now) == [("submit", None)]


def test_plan_of_full_limits_says_which_one() -> None:
    full = replace(LIMITS, max_submitted=1, submitted=1)
    (action,) = actions(record(KEPT, ready(left_s=900)), limits=full)
    assert (action.kind, action.reason) == (
        ActionKind.NOTHING,
        "the partition takes 1 job(s) of yours at a time, and you have 1",
    )
    assert (
        actions(record(KEPT), limits=replace(LIMITS, slots_free=0))[0].reason == "all slots of the gateway are in use"
    )


def test_plan_of_a_model_that_cannot_overlap_queues_its_successor_behind_it() -> None:
    large = replace(LIMITS, max_gpus=16, gpus_in_use=12)
    view = record(ON_DEMAND, ready(left_s=1000, gpus=12), gpus=12)
    (action,) = actions(view, limits=large)
    assert action.kind is ActionKind.SUBMIT
    assert action.reason.endswith("your limit of 16 GPUs lets it start when job-1 ends")
    # idle and unable to take an answer, it makes place before its walltime
    leaving = replace(view.jobs[0], ends_at=ahead(seconds=300), leaving_since=ago(seconds=60))
    assert planned(replace(view, jobs=(leaving, queued(replaces="job-1"))), limits=large)[0] == ("retire", "job-1")


def test_plan_shortens_a_job_that_would_cross_maintenance() -> None:
    soon = replace(LIMITS, maintenance=[Span(ahead(hours=3), ahead(hours=12))])
    (action,) = actions(record(KEPT), limits=soon)
    assert action.walltime_s == 3 * 3600 - 600 - 30
    assert action.reason.endswith("shortened to 2 h 50 min, to end before the maintenance of 15:00")
    (after,) = actions(record(KEPT), limits=replace(LIMITS, maintenance=[Span(ahead(minutes=20), ahead(hours=12))]))
    assert (after.walltime_s, after.begin) == (21_600, ahead(hours=12))
    assert after.reason.endswith("maintenance from 12:20: it starts after Tue 00:00")


def test_plan_pauses_where_the_walltime_is_shorter_than_the_start() -> None:
    (action,) = actions(record(KEPT, walltime_s=240.0))
    assert action.kind is ActionKind.PAUSE
    assert "relaunch it with --time of more than 12 min" in action.reason


def test_plan_of_keep_until_ends_with_the_last_answer() -> None:
    until = Policy(keep=NOW, zone=KEPT.zone)
    assert planned(record(until, ready(open_streams=1))) == [("hand_over", "job-1")]
    leaving = ready(open_streams=1, leaving_since=ago(minutes=2))
    assert planned(record(until, leaving)) == NOTHING
    (action,) = actions(record(until, replace(leaving, open_streams=0)))
    assert (action.kind, action.reason) == (ActionKind.END, "it was kept until 12:00")
    # no successor for the last minutes, and a last job no longer than needed
    soon = Policy(keep=ahead(minutes=20), zone=KEPT.zone)
    assert planned(record(soon, ready(left_s=1000))) == NOTHING
    (first,) = actions(record(Policy(keep=ahead(hours=2))))
    assert first.walltime_s == 2 * 3600 + 400 + 60


def test_plan_takes_a_leaving_job_back_when_its_successor_has_gone() -> None:
    leaving = ready(left_s=1000, leaving_since=ago(seconds=60))
    assert planned(record(KEPT, leaving))[0] == ("take_back", "job-1")
    # too late for an answer
    assert ("take_back", "job-1") not in planned(record(KEPT, replace(leaving, ends_at=ahead(seconds=200))))


def test_plan_of_a_draining_job_submits_the_next() -> None:
    draining = replace(ready(left_s=100), phase=Phase.DRAINING)
    assert planned(record(KEPT, draining)) == [("submit", None)]


def test_plan_while_cancelled_does_nothing() -> None:
    assert planned(record(KEPT, ready(left_s=60), is_stopping=True), ServiceLoad(held=1)) == NOTHING


def test_plan_refuses_a_short_walltime_once_a_start_was_measured() -> None:
    """A guess of how long a start takes refuses nothing: jobs of four minutes are fine where a start takes one."""
    short = record(KEPT, walltime_s=240.0)
    guessed = replace(LIMITS, startup_s=300.0, is_start_measured=False)
    (action,) = actions(short, limits=guessed)
    assert (action.kind, action.walltime_s) == (ActionKind.SUBMIT, 240.0)
    (action,) = actions(short, limits=replace(guessed, is_start_measured=True))
    assert action.kind is ActionKind.PAUSE and "over before it could answer" in action.reason
