"""GPU time from records, as budgets count it: what is used, what is left, what a launch would cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Job, Phase, Placement
from bouchet_core.errors import LaunchRefusedError

from .model import Budget, BudgetUnit, Policy
from .weekly import Span, hours_within, period_at

# no period is longer
LONGEST_PERIOD = timedelta(days=31)
DEPLOYMENT, INSTALLATION = "this deployment", "the installation"


@dataclass(frozen=True)
class BudgetUse:
    """What of a budget is used. Amounts are GPU hours, also of a budget in charge units."""

    used: float
    limit: float
    period: Span
    scope: str = DEPLOYMENT
    # the budget as it was written, for messages
    text: str = ""

    @property
    def share(self) -> float:
        """The used fraction."""
        return self.used / self.limit if self.limit > 0 else 1.0


@dataclass(frozen=True)
class GpuTime:
    """One job's time on GPUs, or what is left of older jobs of one day (UTC). rate: charge units an hour of one GPU."""

    start: datetime
    gpu_s: float
    end: datetime
    rate: float | None = None

    def within(self, span: Span) -> float:
        """Return its GPU hours within the span; the time counts evenly from start to end."""
        length_s = (self.end - self.start).total_seconds()
        if length_s <= 0:
            return 0.0
        common_s = (min(self.end, span.end) - max(self.start, span.start)).total_seconds()
        return self.gpu_s * max(0.0, common_s) / length_s / 3600


def gpu_time(job: Job, site: Site, now: datetime) -> GpuTime | None:
    """Return a job's time on its GPUs until now or its end, None if it has not started or has none.

    A job that Slurm has requeued counts from its last start: the record holds no earlier one.
    """
    starts = [job.since[phase] for phase in (Phase.STARTING, Phase.READY) if phase in job.since]
    if not starts or job.placement is None or not job.placement.gpus or job.phase is Phase.QUEUED:
        return None
    start, end = min(starts), max(min(starts), job.since.get(Phase.ENDED, now))
    rate = site.charge_per_gpu_hour(job.placement.partition, job.placement.gpu_type)
    return GpuTime(start, (end - start).total_seconds() * job.placement.held_gpus, end, rate)


def older_time(days: Mapping[str, float], rate: float | None) -> list[GpuTime]:
    """Return the time of jobs that a record keeps as sums. days: GPU seconds by UTC day, such as 2026-11-29."""
    found = []
    for day, gpu_s in days.items():
        try:
            start = datetime.combine(date.fromisoformat(day), datetime.min.time(), tzinfo=UTC)
        except ValueError:
            # of another version, or damaged
            continue
        found.append(GpuTime(start, gpu_s, start + timedelta(days=1), rate))
    return found


def budget_use(
    budget: Budget, times: Iterable[GpuTime], rate: float | None, zone: str, now: datetime, scope: str = DEPLOYMENT
) -> BudgetUse:
    """Return what of a budget is used in its present period. rate: charge units an hour of the next job's GPU.

    Raises LaunchRefusedError for a budget in charge units where the site names no charge.
    """
    period = period_at(budget.period, now, zone)
    if budget.unit is BudgetUnit.GPU_HOURS:
        used = sum(time.within(period) for time in times)
        return BudgetUse(used, budget.amount, period, scope, str(budget))
    if not rate:
        raise LaunchRefusedError(
            f"the site file has no `charge` for these GPUs, so a budget of {budget} cannot be counted; "
            "write GPU hours instead, such as `40h/week`"
        )
    units = sum(time.within(period) * (rate if time.rate is None else time.rate) for time in times)
    return BudgetUse(units / rate, budget.amount / rate, period, scope, str(budget))


def budget_uses(
    record: Deployment, records: Sequence[Deployment], site: Site, installation: Budget | None, now: datetime
) -> tuple[BudgetUse, ...]:
    """Return what is used of the deployment's budget and of the installation's.

    records: all that may have used GPUs in the present period, ended ones too; `record` may be among them.
    A budget in charge units that cannot be counted at this site counts nothing: the launch has refused it.
    """
    found = []
    for budget, whose, scope in (
        (record.policy.budget, (record,), DEPLOYMENT),
        (installation, (*(r for r in records if r.id != record.id), record), INSTALLATION),
    ):
        rate = _rate_of(record, site)
        if budget is None or (budget.unit is BudgetUnit.CHARGE and not rate):
            continue
        times = [time for one in whose for time in _times_of(one, site, now)]
        found.append(budget_use(budget, times, rate, record.policy.zone, now, scope))
    return tuple(found)


def _times_of(record: Deployment, site: Site, now: datetime) -> list[GpuTime]:
    times = [time for job in record.jobs if (time := gpu_time(job, site, now)) is not None]
    return times + older_time(record.service.used, _rate_of(record, site))


def _rate_of(record: Deployment, site: Site) -> float | None:
    """Return the charge of the GPUs that its last job was placed on, or of the site's usual ones."""
    placement = next((job.placement for job in reversed(record.jobs) if job.placement is not None), None)
    if placement is None:
        return site.charge.get(site.gpu_type)
    return site.charge_per_gpu_hour(placement.partition, placement.gpu_type)


def preview(placement: Placement, site: Site, uses: Iterable[BudgetUse] = ()) -> str:
    """Return what one job costs if it runs to its walltime: `8 h x 4 H200 = 9,600 SU, 31 % of what is left`."""
    if not placement.gpus:
        return ""
    hours = placement.walltime_s / 3600
    gpu_type = placement.gpu_type.upper() or "GPU"
    gpu_hours = hours * placement.held_gpus
    text = f"{hours:,.4g} h x {placement.held_gpus} {gpu_type} = {_amount(gpu_hours, placement, site)}"
    tightest = max(uses, key=lambda use: use.share, default=None)
    if tightest is None:
        return text
    left = tightest.limit - tightest.used
    if left <= 0:
        return f"{text}; the budget of {tightest.scope} ({tightest.text}) is used up"
    if gpu_hours > left:
        return f"{text}, more than is left of the budget of {tightest.scope} ({tightest.text}): it ends sooner"
    return f"{text}, {gpu_hours / left:.0%} of what is left of the budget of {tightest.scope} ({tightest.text})"


def preview_policy(placement: Placement, site: Site, policy: Policy, now: datetime) -> str:
    """Return what jobs one after another cost a day, and at most; empty for one job that ends at its walltime.

    The minutes in which a successor already runs are not counted.
    """
    if not placement.gpus or not policy.is_managed:
        return ""
    gpus = placement.held_gpus * policy.replicas.high
    day = gpus * (hours_within(policy.hours, now, now + timedelta(days=7)) / 7 if policy.hours else 24.0)
    is_less = policy.on_demand or policy.replicas.low < policy.replicas.high
    text = f"kept, {'up to' if is_less else 'about'} {_amount(day, placement, site)} a day"
    limits = []
    if isinstance(policy.keep, datetime):
        left = (policy.keep - now) / timedelta(days=1) * day
        limits.append(f"{_amount(max(0.0, left), placement, site)} until {policy.keep:%Y-%m-%d %H:%M} UTC")
    if policy.budget is not None:
        limits.append(str(policy.budget))
    return f"{text}, at most {' and '.join(limits)}" if limits else f"{text}, without a limit until it is cancelled"


def _amount(gpu_hours: float, placement: Placement, site: Site) -> str:
    """Return GPU hours in the site's charge units, or as they are where it has no price."""
    rate = site.charge_per_gpu_hour(placement.partition, placement.gpu_type)
    return f"{gpu_hours * rate:,.0f} {site.charge_unit}" if rate else f"{gpu_hours:,.4g} GPU hours"
