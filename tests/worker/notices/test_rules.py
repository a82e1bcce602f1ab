"""Which notices a record calls for, and under which key. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase, Placement, PlanDecision
from bouchet_core.notices import NOTICE_AGE, Notice, NoticeKind
from bouchet_core.policy import Policy
from bouchet_core.policy.budget import DEPLOYMENT, INSTALLATION, BudgetUse
from bouchet_core.policy.weekly import Span
from bouchet_worker.notices.rules import budget_notices, notices_of
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 29, 14, 0, tzinfo=UTC)
PLACEMENT = Placement(partition="gpu_h200", gpus=1, cpus=1, memory_gib=1, walltime_s=3600)
KEPT = Policy(keep="forever")
LIFE = (Phase.REQUESTED, Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.ENDED)


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def job(number: int, phase: Phase, minutes: float = 0, **more: Any) -> Job:
    """Return a job that came into each phase a minute after the one before, into this one at `minutes`."""
    reached = LIFE[: LIFE.index(phase) + 1]
    since = {one: at(minutes - (len(reached) - 1 - index)) for index, one in enumerate(reached)}
    fields = {"since": {**since, **more.pop("since", {})}, "placement": PLACEMENT, **more}
    return Job(name=f"bouchet-aa-{number}", slot=0, phase=phase, **fields)


def record(*jobs: Job, policy: Policy | None = None, **more: Any) -> Deployment:
    shown = jobs[-1].phase if jobs else Phase.REQUESTED
    fields: dict[str, Any] = {"phase": shown, "created_at": at(-60), "updated_at": NOW, **more}
    request = fields.pop("request", LaunchRequest(model="demo/scripted"))
    identity = fields.pop("id", "aa")
    return Deployment(
        id=identity,
        model="demo/scripted",
        names=("hop",),
        request=request,
        jobs=jobs,
        policy=policy or Policy(),
        **fields,
    )


def kinds(found: list[Notice]) -> list[tuple[NoticeKind, str]]:
    return [(one.kind, one.title) for one in found]


def test_ready_job_is_a_notice_whose_key_does_not_change_with_time() -> None:
    ready = record(job(1, Phase.READY))
    (notice,) = notices_of(ready, NOW)
    assert (notice.kind, notice.title, notice.asked) == (NoticeKind.READY, "hop is ready", False)
    assert [one.key for one in notices_of(ready, at(7))] == [notice.key]


def test_launch_with_notify_is_noted() -> None:
    request = LaunchRequest(model="demo/scripted", notify=True)
    assert [one.asked for one in notices_of(record(job(1, Phase.READY), request=request), NOW)] == [True]


def test_job_that_slurm_requeued_is_ready_again() -> None:
    first, second = (notices_of(record(job(1, Phase.READY, minutes)), NOW) for minutes in (-9, 0))
    assert first[0].key != second[0].key


def test_successor_that_takes_over_is_no_news() -> None:
    old, new = job(1, Phase.READY, -9), job(2, Phase.READY, -1)
    assert [one.key.split("/")[1] for one in notices_of(record(old, new, policy=KEPT), NOW)] == ["bouchet-aa-1"]
    gone = job(1, Phase.ENDED, 1, stop_requested_at=NOW, since={Phase.READY: at(-9)})
    assert notices_of(record(gone, new, policy=KEPT), at(2)) == []


@pytest.mark.parametrize(("minutes", "ends"), [(-49, False), (-51, True), (-59.9, True), (-60.1, False)])
def test_end_of_the_walltime_is_announced_ten_minutes_before(minutes: float, ends: bool) -> None:
    """The job's walltime is 60 minutes; `minutes`: when it started."""
    serving = job(1, Phase.READY, 0, since={Phase.STARTING: at(minutes), Phase.READY: at(-45)})
    found = notices_of(record(serving), NOW)
    assert [one.kind for one in found] == ([NoticeKind.ENDING] if ends else [])
    assert all("`bouchet keep hop 1d`" in one.text for one in found)


def test_short_job_is_announced_in_its_last_quarter() -> None:
    short = PLACEMENT.model_copy(update={"walltime_s": 240})
    serving = job(1, Phase.READY, -2.5, since={Phase.STARTING: at(-2.9)}, placement=short)
    assert NoticeKind.ENDING not in [one.kind for one in notices_of(record(serving), NOW)]
    assert NoticeKind.ENDING in [one.kind for one in notices_of(record(serving), at(0.5))]


def test_end_that_a_successor_follows_is_not_announced() -> None:
    serving = job(1, Phase.READY, -40, since={Phase.STARTING: at(-55)})
    assert notices_of(record(serving, policy=KEPT), NOW) == []
    until = Policy(keep=at(8))
    assert kinds(notices_of(record(serving, policy=until), NOW)) == [(NoticeKind.ENDING, "hop ends in 8 min")]
    cancelled = record(serving, stop_requested_at=NOW)
    assert notices_of(cancelled, NOW) == []


@pytest.mark.parametrize(
    ("ending", "kind", "title"),
    [
        (Ending.TIMED_OUT, NoticeKind.ENDED, "hop ended: its walltime is over"),
        (Ending.CANCELLED, NoticeKind.ENDED, "hop ended: cancelled"),
        (Ending.IDLE, NoticeKind.ENDED, "hop ended: it was idle"),
        (Ending.FAILED, NoticeKind.ENDED, "hop ended: failed"),
    ],
)
def test_end_says_why(ending: Ending, kind: NoticeKind, title: str) -> None:
    ended = record(job(1, Phase.ENDED, ending=ending), ending=ending, reason="the node h07 failed")
    (notice,) = notices_of(ended, NOW)
    assert (notice.key, notice.kind, notice.title, notice.text) == ("ended/aa", kind, title, "the node h07 failed")


def test_end_before_any_job_was_ready_is_a_failed_start() -> None:
    since = dict.fromkeys((Phase.QUEUED, Phase.ENDED), NOW)
    failed = Job(name="bouchet-aa-1", slot=0, phase=Phase.ENDED, ending=Ending.FAILED, since=since)
    for jobs in ((failed,), ()):
        found = notices_of(record(*jobs, phase=Phase.ENDED, ending=Ending.FAILED, reason="out of memory"), NOW)
        assert [(one.key, one.kind) for one in found] == [("ended/aa", NoticeKind.FAILED_START)]
    cancelled = record(failed, phase=Phase.ENDED, ending=Ending.CANCELLED)
    assert [one.kind for one in notices_of(cancelled, NOW)] == [NoticeKind.ENDED]


def test_each_failed_start_of_a_kept_deployment_and_its_pause_are_notices() -> None:
    since = {Phase.QUEUED: at(-2), Phase.ENDED: at(-1)}
    failed = [
        Job(name=f"bouchet-aa-{n}", slot=0, phase=Phase.ENDED, ending=Ending.FAILED, since=since, reason="no memory")
        for n in (1, 2)
    ]
    kept = record(*failed, policy=KEPT, phase=Phase.REQUESTED)
    assert [one.key for one in notices_of(kept, NOW)] == ["failed/bouchet-aa-1", "failed/bouchet-aa-2"]
    pause = PlanDecision(at=NOW, action="pause", reason="3 starts in a row failed")
    paused = kept.with_service(NOW, paused=pause.reason, decisions=(pause,))
    assert notices_of(paused, NOW)[-1].title == "hop is paused"
    retired = failed[0].model_copy(update={"stop_requested_at": NOW})
    assert notices_of(record(retired, policy=KEPT, phase=Phase.REQUESTED), NOW) == []


def test_lost_job_of_a_kept_deployment_is_a_notice_and_a_retired_one_is_not() -> None:
    lost = job(1, Phase.ENDED, ending=Ending.FAILED, reason="node failure.")
    kept = record(lost, policy=KEPT, phase=Phase.REQUESTED)
    (notice,) = notices_of(kept, NOW)
    assert notice.key == "lost/bouchet-aa-1" and notice.text == "node failure. Its policy submits the next one."
    retired = lost.model_copy(update={"stop_requested_at": NOW})
    assert notices_of(record(retired, policy=KEPT, phase=Phase.REQUESTED), NOW) == []


def test_what_happened_long_ago_is_left_out() -> None:
    late = NOW + NOTICE_AGE + timedelta(seconds=1)
    assert notices_of(record(job(1, Phase.READY)), late) == []


def use(share: float, scope: str = DEPLOYMENT, start: datetime = NOW) -> BudgetUse:
    period = Span(start - timedelta(hours=14), start + timedelta(days=7))
    return BudgetUse(share * 40, 40, period, scope, "40 GPU hours a week")


def test_budget_is_a_notice_at_80_and_at_100_percent_once_a_period() -> None:
    own = record(job(1, Phase.READY))
    assert budget_notices(own, [use(0.79)], NOW) == []
    first, same, full = (budget_notices(own, [use(share)], NOW)[0] for share in (0.8, 0.95, 1.2))
    assert first.key == same.key != full.key and first.kind is NoticeKind.BUDGET
    assert (first.title, full.title) == ("hop: 80% of its budget is used", "hop: all of its budget is used")
    later = budget_notices(own, [use(0.8, start=at(60 * 24 * 7))], NOW)[0]
    assert later.key != first.key


def test_budget_of_the_installation_is_one_for_all_deployments() -> None:
    found = {budget_notices(record(id=name), [use(0.9, INSTALLATION)], NOW)[0].key for name in ("aa", "bb")}
    assert len(found) == 1 and all("installation" in key and "aa" not in key for key in found)


@given(st.integers(-10_000, 10_000))
def test_keys_do_not_depend_on_the_clock(minutes: int) -> None:
    serving = job(1, Phase.READY, -3, since={Phase.STARTING: at(-55)})
    known = {"ready/bouchet-aa-1/" + at(-3).isoformat(), "ending/bouchet-aa-1/" + at(-55).isoformat()}
    assert {one.key for one in notices_of(record(serving), at(minutes))} <= known
