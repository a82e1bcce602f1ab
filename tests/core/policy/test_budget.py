"""GPU time from records, budgets over their periods, and the preview of a launch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_core.config.site import Site, load_site
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Placement
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.policy import OFF, Budget, BudgetUnit, Period, Policy, Replicas, parse_hours
from bouchet_core.policy.budget import (
    BudgetUse,
    GpuTime,
    budget_use,
    budget_uses,
    gpu_time,
    older_time,
    preview,
    preview_policy,
)
from bouchet_core.policy.weekly import period_at
from hypothesis import given
from hypothesis import strategies as st

# a Wednesday; the week began on Monday 05:00 UTC
NOW = datetime(2026, 12, 2, 15, 0, tzinfo=UTC)
YALE = "America/New_York"
HOUR = timedelta(hours=1)
WEEK = Budget(amount=40, period=Period.WEEK)


@pytest.fixture(scope="module")
def site() -> Site:
    """Return Bouchet's own site file."""
    return load_site(Path(__file__).parents[3] / "sites/bouchet.yaml")


def job(started: datetime | None, ended: datetime | None = None, gpus: int = 4) -> Job:
    """Return a job on H200 GPUs."""
    placement = Placement(partition="gpu_h200", gpus=gpus, gpu_type="h200", cpus=6, memory_gib=240, walltime_s=28_800)
    since = {Phase.QUEUED: NOW - 30 * HOUR}
    if started is not None:
        since |= {Phase.STARTING: started, Phase.READY: started + timedelta(minutes=5)}
    if ended is not None:
        since[Phase.ENDED] = ended
    phase = Phase.ENDED if ended else Phase.READY if started else Phase.QUEUED
    return Job(name="bouchet-aa-1", slot=0, phase=phase, placement=placement, since=since)


def times(site: Site, *jobs: Job) -> list[GpuTime]:
    """Return the GPU times of jobs."""
    return [found for one in jobs if (found := gpu_time(one, site, NOW)) is not None]


def test_gpu_time_counts_from_the_start_until_the_end_or_now(site: Site) -> None:
    running, ended = times(site, job(NOW - 2 * HOUR), job(NOW - 9 * HOUR, NOW - 8 * HOUR))
    assert (running.gpu_s, ended.gpu_s) == (8 * 3600, 4 * 3600)
    assert running.rate == 300
    assert times(site, job(None), job(NOW - HOUR, gpus=0)) == []


def test_budget_use_counts_the_present_period_only(site: Site) -> None:
    monday = datetime(2026, 11, 30, 5, 0, tzinfo=UTC)
    found = times(site, job(monday - 3 * HOUR, monday + 2 * HOUR), job(NOW - HOUR))
    use = budget_use(WEEK, found, 300, YALE, NOW)
    assert (use.used, use.limit, use.share) == (12, 40, 0.3)
    assert use.period.start == monday


def test_budget_use_in_charge_units_is_converted(site: Site) -> None:
    budget = Budget(amount=6000, unit=BudgetUnit.CHARGE, period=Period.DAY)
    use = budget_use(budget, times(site, job(NOW - 2 * HOUR)), 300, YALE, NOW)
    assert (use.used, use.limit, use.share) == (8, 20, 0.4)
    assert use.text == "6,000 charge units a day"
    with pytest.raises(LaunchRefusedError, match="no `charge`"):
        budget_use(budget, [], None, YALE, NOW)


def test_budget_use_of_a_mixed_installation_counts_each_job_at_its_own_rate() -> None:
    budget = Budget(amount=1000, unit=BudgetUnit.CHARGE, period=Period.DAY)
    h200, rtx = (GpuTime(NOW - HOUR, 3600, NOW, rate) for rate in (300, 65))
    assert budget_use(budget, [h200, rtx], 100, YALE, NOW).used == pytest.approx(3.65)


def test_older_time_of_a_day_is_split_by_the_period() -> None:
    # the local day begins at 05:00 UTC: 19 of the 24 hours of that UTC day are in it
    times = older_time({"2026-12-02": 24 * 3600.0, "2026-11-01": 3600.0, "soon": 9.0}, 300)
    use = budget_use(Budget(amount=40, period=Period.DAY), times, 300, YALE, NOW)
    assert use.used == pytest.approx(19)


def deployed(identity: str, policy: Policy, *jobs: Job) -> Deployment:
    """Return a record with these jobs."""
    return Deployment(
        id=identity,
        model="org/model",
        names=(identity,),
        request=LaunchRequest(model="org/model"),
        policy=policy,
        jobs=jobs,
        created_at=NOW,
        updated_at=NOW,
    )


def test_budget_uses_of_a_deployment_and_of_the_installation(site: Site) -> None:
    own = deployed("aa", Policy(budget=WEEK, zone=YALE), job(NOW - 2 * HOUR))
    ended = deployed("bb", OFF, job(NOW - 5 * HOUR, NOW - 4 * HOUR))
    everything = Budget(amount=100, period=Period.WEEK)
    mine, all_of_them = budget_uses(own, [own, ended], site, everything, NOW)
    assert (mine.used, mine.limit, mine.scope) == (8, 40, "this deployment")
    assert (all_of_them.used, all_of_them.limit, all_of_them.scope) == (12, 100, "the installation")
    assert budget_uses(ended, [own], site, None, NOW) == ()


def test_budget_uses_counts_jobs_that_the_record_has_dropped(site: Site) -> None:
    own = deployed("aa", Policy(budget=WEEK, zone=YALE))
    service = own.service.model_copy(update={"used": {"2026-12-01": 7200.0, "2026-11-01": 7200.0}})
    (use,) = budget_uses(own.model_copy(update={"service": service}), [], site, None, NOW)
    assert use.used == pytest.approx(2)


def test_budget_uses_in_a_unit_that_the_site_does_not_charge_counts_nothing(site: Site) -> None:
    units = Budget(amount=100, unit=BudgetUnit.CHARGE)
    free = site.model_copy(update={"charge": {}})
    assert budget_uses(deployed("aa", Policy(budget=units), job(NOW - HOUR)), [], free, units, NOW) == ()


def test_preview_says_what_a_job_costs(site: Site) -> None:
    placement = job(NOW).placement
    assert placement is not None
    assert preview(placement, site) == "8 h x 4 H200 = 9,600 SU"
    use = BudgetUse(16, 80, period_at(Period.WEEK, NOW, YALE), text="80 GPU hours a week")
    assert preview(placement, site, [use]) == (
        "8 h x 4 H200 = 9,600 SU, 50% of what is left of the budget of this deployment (80 GPU hours a week)"
    )
    nearly = BudgetUse(60, 80, use.period, text="80 GPU hours a week")
    assert "more than is left" in preview(placement, site, [use, nearly])
    assert "is used up" in preview(placement, site, [BudgetUse(80, 80, use.period)])


def test_preview_without_a_charge_is_in_gpu_hours(site: Site) -> None:
    placement = job(NOW).placement
    assert placement is not None
    free = site.model_copy(update={"charge": {}})
    assert preview(placement, free) == "8 h x 4 H200 = 32 GPU hours"
    assert preview(placement.model_copy(update={"gpus": 0}), site) == ""


def test_preview_of_a_kept_deployment_says_what_it_costs_a_day_and_at_most(site: Site) -> None:
    placement = job(NOW).placement
    assert placement is not None
    assert preview_policy(placement, site, Policy(), NOW) == ""
    three_days = Policy(keep=NOW + timedelta(days=3))
    until = f"{NOW + timedelta(days=3):%Y-%m-%d %H:%M} UTC"
    assert preview_policy(placement, site, three_days, NOW) == (
        f"kept, about 28,800 SU a day, at most 86,400 SU until {until}"
    )
    budget = Budget(amount=400, period=Period.MONTH)
    both = preview_policy(placement, site, three_days.model_copy(update={"budget": budget}), NOW)
    assert both.endswith(f"at most 86,400 SU until {until} and 400 GPU hours a month")
    forever = preview_policy(placement, site, Policy(keep="forever", replicas=Replicas(low=1, high=2)), NOW)
    assert forever == "kept, up to 57,600 SU a day, without a limit until it is cancelled"
    hours = Policy(hours=parse_hours("mon-fri 08:00-18:00", YALE), on_demand=True)
    free = site.model_copy(update={"charge": {}})
    assert preview_policy(placement, free, hours, NOW).startswith("kept, up to 28.57 GPU hours a day")
    assert preview_policy(placement.model_copy(update={"gpus": 0}), site, three_days, NOW) == ""


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 200)), max_size=6), st.integers(0, 400))
def test_budget_use_of_consecutive_days_adds_up_to_all_time(lengths: list[tuple[int, int]], after: int) -> None:
    found = [
        GpuTime(NOW - timedelta(hours=ago), hours * 3600.0, NOW - timedelta(hours=ago - hours))
        for ago, hours in lengths
    ]
    day = Budget(amount=1, period=Period.DAY)
    first = NOW - timedelta(hours=520)
    total = sum(budget_use(day, found, None, YALE, first + timedelta(days=n)).used for n in range(40))
    assert total == pytest.approx(sum(hours for _, hours in lengths))
