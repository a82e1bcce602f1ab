"""Policies that cannot be followed are refused, and what would work is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_core.config.site import Site, load_site
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Placement
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.policy import OFF, Budget, Period, Policy, Replicas, parse_hours
from bouchet_core.policy.checks import (
    check_budget,
    check_launch,
    check_placements,
    check_policy,
    check_walltime,
    hours_warning,
    measured_startup_s,
    overlap_problem,
)

NOW = datetime(2026, 11, 29, 12, 34, tzinfo=UTC)
KEPT = Policy(keep="forever")
OFFICE = parse_hours("mon-fri 08:30-18:00", "America/New_York")


@pytest.fixture(scope="module")
def site() -> Site:
    """Return Bouchet's own site file."""
    return load_site(Path(__file__).parents[3] / "sites/bouchet.yaml")


def placed(partition: str, gpus: int) -> Placement:
    """Return a placement of H200 GPUs."""
    return Placement(partition=partition, gpus=gpus, gpu_type="h200", cpus=6, memory_gib=240, walltime_s=21_600)


def refusal(policy: Policy, *placements: Placement, site: Site) -> str:
    """Return the message with which the placements are refused."""
    with pytest.raises(LaunchRefusedError) as refused:
        check_placements(policy, placements, site)
    return str(refused.value)


def test_check_placements_of_a_model_that_cannot_overlap_itself_names_what_would_work(site: Site) -> None:
    message = refusal(KEPT, placed("gpu_h200", 12), site=site)
    assert "gpu_h200 allows 16 GPUs, and a renewal needs 24" in message
    assert "--gpus 8 or fewer" in message and "--on-demand" in message


def test_check_placements_chooses_a_partition_that_allows_an_overlap(site: Site) -> None:
    # gpu_devel takes one job of a user at a time
    found = check_placements(KEPT, [placed("gpu_devel", 1), placed("gpu_h200", 1)], site)
    assert [placement.partition for placement in found] == ["gpu_h200"]
    assert "--partition gpu_h200" in refusal(KEPT, placed("gpu_devel", 1), site=site)


def test_check_placements_of_one_job_or_on_demand_leaves_them(site: Site) -> None:
    both = (placed("gpu_devel", 1), placed("gpu_h200", 1))
    assert check_placements(OFF, both, site) == both
    large = (placed("gpu_h200", 12),)
    assert check_placements(Policy(on_demand=True), large, site) == large


def test_check_placements_of_replicas_names_how_many_fit(site: Site) -> None:
    policy = Policy(keep="forever", replicas=Replicas(low=1, high=4))
    message = refusal(policy, placed("gpu_h200", 4), site=site)
    assert "a renewal needs 20" in message and "--replicas 1..3" in message
    assert (
        overlap_problem(policy.model_copy(update={"replicas": Replicas(low=1, high=3)}), placed("gpu_h200", 4), site)
        == ""
    )


@pytest.mark.parametrize(
    ("policy", "part"),
    [
        (Policy(keep=NOW - timedelta(hours=1)), "--until is in the past"),
        (Policy(keep="forever", on_demand=True), "contradict each other"),
        (Policy(replicas=Replicas(low=1, high=3)), "add --keep"),
        (Policy(keep=NOW + timedelta(days=1), begin=NOW + timedelta(days=2)), "--begin is not before --until"),
        (Policy(keep=NOW + timedelta(hours=3), hours=OFFICE), "do not come before it ends"),
    ],
)
def test_check_policy_of_a_contradiction_raises(policy: Policy, part: str) -> None:
    with pytest.raises(LaunchRefusedError) as refused:
        check_policy(policy, NOW)
    assert part in str(refused.value)


@pytest.mark.parametrize(
    "policy",
    [
        OFF,
        KEPT,
        Policy(keep=NOW + timedelta(days=2), hours=OFFICE, on_demand=True),
        Policy(keep="forever", on_demand=True, hours=OFFICE),
        Policy(on_demand=True, replicas=Replicas(low=1, high=3)),
    ],
)
def test_check_policy_of_what_can_be_followed_passes(policy: Policy) -> None:
    check_policy(policy, NOW)


def test_check_walltime_below_the_start_up_names_a_longer_one(site: Site) -> None:
    with pytest.raises(LaunchRefusedError) as refused:
        check_walltime(300, 400, site.partition("gpu_devel"))
    assert "--time 00:15:20 or more (at most 06:00:00 in gpu_devel)" in str(refused.value)
    check_walltime(600, 400)


def test_check_budget_below_one_start_raises() -> None:
    with pytest.raises(LaunchRefusedError) as refused:
        check_budget(0.5, 8, 600, "0.5 GPU hours a week")
    assert "allow at least 16 GPU hours" in str(refused.value)
    check_budget(40, 8, 600, "40 GPU hours a week")


def test_check_launch_refuses_what_can_never_be_kept(site: Site) -> None:
    found = (placed("gpu_devel", 1), placed("gpu_h200", 1))
    assert check_launch(OFF, found, site, NOW) == found
    assert check_launch(KEPT, found, site, NOW, startup_s=300) == found[1:]
    with pytest.raises(LaunchRefusedError, match="ends before the model can serve"):
        check_launch(KEPT, found, site, NOW, startup_s=30_000)
    small = Policy(keep="forever", budget=Budget(amount=0.01))
    with pytest.raises(LaunchRefusedError, match="is used up before the model serves"):
        check_launch(small, found, site, NOW)


def test_measured_startup_is_the_slowest_of_the_model() -> None:
    started = {Phase.STARTING: NOW, Phase.READY: NOW + timedelta(seconds=400)}
    record = Deployment(
        id="aa",
        model="org/model",
        names=("coder",),
        request=LaunchRequest(model="org/model"),
        jobs=(Job(name="a", slot=0, since=started), Job(name="b", slot=1, since={Phase.STARTING: NOW})),
        created_at=NOW,
        updated_at=NOW,
    )
    assert measured_startup_s([record], "org/model") == 400
    assert measured_startup_s([record], "org/other") == 0


def test_hours_warning_compares_hours_with_the_budget() -> None:
    policy = Policy(hours=OFFICE, budget=Budget(amount=40, period=Period.WEEK))
    assert hours_warning(policy, NOW, 40, 2) == "its hours need 95 GPU hours a week; the budget ends at 40"
    assert hours_warning(policy, NOW, 100, 2) == ""
    assert hours_warning(Policy(hours=OFFICE), NOW, 40, 2) == ""
