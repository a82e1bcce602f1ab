"""Policies that cannot be followed, refused before anything is submitted. Each message names what would work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from bouchet_core.config.site import Partition, Site
from bouchet_core.deployments import Deployment, Phase, Placement
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.values import format_duration

from .budget import budget_use
from .model import Policy
from .weekly import hours_within, next_window, period_at, window_at

# a job must serve at least this long after its start
SHORTEST_SERVICE_S = 120.0


def check_launch(
    policy: Policy, found: Sequence[Placement], site: Site, now: datetime, startup_s: float = 0.0
) -> tuple[Placement, ...]:
    """Return the placements in which the policy can be followed; LaunchRefusedError names what would work.

    found: the placements that fit the request. startup_s: as far as a start was measured.
    """
    check_policy(policy, now)
    possible = check_placements(policy, found, site)
    first = possible[0]
    if policy.is_managed:
        check_walltime(first.walltime_s, startup_s, site.partition(first.partition))
    if policy.budget is not None:
        rate = site.charge_per_gpu_hour(first.partition, first.gpu_type)
        use = budget_use(policy.budget, (), rate, policy.zone, now)
        check_budget(use.limit, first.gpus, startup_s, use.text)
    return possible


def measured_startup_s(records: Iterable[Deployment], model: str) -> float:
    """Return how long the model took at most from a job's start to ready, 0 where none of the records shows it."""
    measured = [
        (job.since[Phase.READY] - job.since[Phase.STARTING]).total_seconds()
        for record in records
        if record.model == model
        for job in record.jobs
        if Phase.READY in job.since and Phase.STARTING in job.since
    ]
    return max(measured, default=0.0)


def check_policy(policy: Policy, now: datetime) -> None:
    """Raise LaunchRefusedError for a policy that contradicts itself, whatever it is for."""
    kept_until = policy.keep if isinstance(policy.keep, datetime) else None
    if kept_until is not None and kept_until <= now:
        raise LaunchRefusedError("--until is in the past; name a later time, such as `--keep 3d`")
    if policy.keep == "forever" and policy.on_demand and policy.hours is None:
        raise LaunchRefusedError(
            "--keep forever and --on-demand contradict each other; with --on-demand alone it is parked while no "
            "request comes, and wakes for one"
        )
    if policy.replicas.high > 1 and not policy.is_managed:
        raise LaunchRefusedError(
            f"--replicas {policy.replicas} needs to know for how long; add --keep 1d, --on-demand or --hours"
        )
    if policy.begin is not None and kept_until is not None and policy.begin >= kept_until:
        raise LaunchRefusedError("--begin is not before --until; name an earlier begin or keep it for longer")
    if policy.hours is None:
        return
    first = max(now, policy.begin or now)
    if kept_until is not None and window_at(policy.hours, first) is None:
        window = next_window(policy.hours, first)
        if window is not None and window.start >= kept_until:
            raise LaunchRefusedError(
                f"its hours ({policy.hours}) do not come before it ends; keep it for longer, or choose other hours"
            )


def check_placements(policy: Policy, found: Sequence[Placement], site: Site) -> tuple[Placement, ...]:
    """Return the placements in which the policy can be followed, in their order.

    Two jobs run side by side while one takes over from the other. Raises LaunchRefusedError if no placement allows it.
    """
    if not policy.is_managed:
        return tuple(found)
    problems = {placement.partition: overlap_problem(policy, placement, site) for placement in found}
    possible = tuple(placement for placement in found if not problems[placement.partition])
    if possible or policy.on_demand:
        # parked models start when they are asked for; without an overlap, requests wait while a job takes over
        return possible or tuple(found)
    first = found[0]
    raise LaunchRefusedError(f"{problems[first.partition]}; {_what_works(policy, first, site)}")


def overlap_problem(policy: Policy, placement: Placement, site: Site) -> str:
    """Return which limit forbids that a successor loads while the old jobs serve, empty if none does."""
    partition = site.partition(placement.partition)
    if partition is None:
        return ""
    jobs = policy.replicas.high + 1
    needed = placement.held_gpus * jobs
    most = _most_gpus(partition)
    if placement.gpus and most is not None and needed > most:
        return (
            f"{partition.name} allows {most} GPUs, and a renewal needs {needed}: {policy.replicas.high} x "
            f"{placement.held_gpus} that serve, and {placement.held_gpus} for the next job"
        )
    for limit, what in ((partition.max_running, "running"), (partition.max_submitted, "queued or running")):
        if limit is not None and jobs > limit:
            return f"{partition.name} allows {limit} {what} job{'' if limit == 1 else 's'}, and a renewal needs {jobs}"
    return ""


def check_walltime(walltime_s: float, startup_s: float, partition: Partition | None = None) -> None:
    """Raise LaunchRefusedError for jobs that end before their model can serve."""
    if walltime_s >= startup_s + SHORTEST_SERVICE_S:
        return
    most = f" (at most {partition.max_walltime} in {partition.name})" if partition is not None else ""
    needed = format_duration(int(2 * startup_s + SHORTEST_SERVICE_S))
    raise LaunchRefusedError(
        f"a walltime of {format_duration(int(walltime_s))} ends before the model can serve: its start takes about "
        f"{format_duration(int(startup_s))}; use --time {needed} or more{most}"
    )


def check_budget(limit_gpu_hours: float, gpus: int, startup_s: float, text: str) -> None:
    """Raise LaunchRefusedError for a budget that one start uses up. text: the budget as it was written."""
    needed = gpus * (startup_s + SHORTEST_SERVICE_S) / 3600
    if limit_gpu_hours < needed:
        raise LaunchRefusedError(
            f"a budget of {text} is used up before the model serves: one start of {gpus} GPUs takes {needed:.2g} GPU "
            f"hours; allow at least {max(1, round(10 * needed))} GPU hours"
        )


def hours_warning(policy: Policy, now: datetime, limit_gpu_hours: float, gpus: int) -> str:
    """Return a warning if the budget does not last for all hours of its period, empty if it does."""
    if policy.hours is None or policy.budget is None or policy.on_demand:
        return ""
    span = period_at(policy.budget.period, now, policy.zone)
    needed = gpus * hours_within(policy.hours, span.start, span.end)
    if needed <= limit_gpu_hours:
        return ""
    return f"its hours need {needed:,.0f} GPU hours a {policy.budget.period}; the budget ends at {limit_gpu_hours:,.4g}"


def _most_gpus(partition: Partition) -> int | None:
    limits = [limit for limit in (partition.max_gpus, partition.group_max_gpus) if limit is not None]
    return min(limits, default=None)


def _what_works(policy: Policy, placement: Placement, site: Site) -> str:
    """Return changes of the launch that the limits allow, the smallest first."""
    others = [p.name for p in site.partitions if p.name != placement.partition and _fits(policy, placement, p, site)]
    partition = site.partition(placement.partition)
    most = _most_gpus(partition) if partition is not None else None
    options = [f"--partition {others[0]}"] if others else []
    if most is not None and policy.replicas.high > 1 and most // placement.held_gpus >= 2:
        high = most // placement.held_gpus - 1
        low = min(policy.replicas.low, high)
        options.append(f"--replicas {high if low == high else f'{low}..{high}'}")
    elif most is not None and most // 2 >= 1 and placement.gpus * 2 > most:
        options.append(f"--gpus {most // 2} or fewer")
    options.append("--on-demand (requests wait while a job takes over)")
    return "what would work: " + ", ".join(options)


def _fits(policy: Policy, placement: Placement, other: Partition, site: Site) -> bool:
    same_type = not other.gpu_types or placement.gpu_type in other.gpu_types
    enough = placement.gpus <= other.gpus_per_node * placement.nodes
    usable = not other.preemptible and not other.cost
    moved = placement.model_copy(update={"partition": other.name})
    return same_type and enough and usable and not overlap_problem(policy, moved, site)
