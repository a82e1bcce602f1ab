"""`Policy` and its parts, as a record stores them. All values are frozen; times are aware UTC datetimes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from bouchet_core.values import DeploymentName, FrozenModel

MINUTES_A_DAY = 1440
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_REPLICAS = 16
# within hours, a model waits that long for its next request
LONGEST_PAUSE_S = 6000.0

# off: one job that ends at its walltime; forever: successors without end; a time: successors until then
Keep = Literal["off", "forever"] | AwareDatetime
Minute = Annotated[int, Field(ge=0, le=MINUTES_A_DAY)]


class BudgetUnit(StrEnum):
    """What a budget counts: hours of GPUs, or the site's charge units (service units)."""

    GPU_HOURS = "gpu_hours"
    CHARGE = "charge"


class Period(StrEnum):
    """The calendar period, in the policy's time zone, after which a budget begins from zero."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Replicas(FrozenModel):
    """How many jobs serve at the same time: `low` always, up to `high` under load."""

    low: int = Field(default=1, ge=1, le=MOST_REPLICAS)
    high: int = Field(default=1, ge=1, le=MOST_REPLICAS)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"{self.low}..{self.high} is no range: write the smaller number first")
        return self

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


class WeeklyWindow(FrozenModel):
    """The same hours on some days of the week. days: 0 is Monday; start, end: minutes of the local day.

    An end at or before the start is on the next day.
    """

    days: tuple[Annotated[int, Field(ge=0, le=6)], ...] = Field(min_length=1)
    start: Minute
    end: Minute

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.start == self.end or self.start == MINUTES_A_DAY:
            raise ValueError("hours begin before midnight, and end at another time than they begin")
        return self

    def __str__(self) -> str:
        return f"{_days_text(self.days)} {_clock(self.start)}-{_clock(self.end)}"


class Hours(FrozenModel):
    """Weekly hours in the time zone of the person who set them."""

    windows: tuple[WeeklyWindow, ...] = Field(min_length=1, max_length=14)
    zone: str = Field(default="UTC", max_length=64, description="IANA name of the time zone, such as America/New_York")

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.windows))} ({self.zone})"


class Budget(FrozenModel):
    """An amount for each period, of the deployment or of the whole installation."""

    amount: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    unit: BudgetUnit = BudgetUnit.GPU_HOURS
    period: Period = Period.WEEK

    def __str__(self) -> str:
        unit = " GPU hours" if self.unit is BudgetUnit.GPU_HOURS else " charge units"
        return f"{self.amount:,g}{unit} a {self.period}"


class Policy(FrozenModel):
    """What a deployment is kept for. The default is one job that ends at its walltime."""

    keep: Keep = "off"
    on_demand: bool = Field(default=False, description="parked without a job until a request names it")
    replicas: Replicas = Replicas()
    hours: Hours | None = None
    budget: Budget | None = None
    begin: AwareDatetime | None = Field(default=None, description="no job runs before this time")
    exclusive_group: DeploymentName | None = Field(
        default=None, description="deployments of a group share GPUs: waking one parks another that is idle"
    )
    zone: str = Field(default="UTC", max_length=64, description="time zone of budget periods and of messages")

    @property
    def is_managed(self) -> bool:
        """Whether jobs are submitted and retired for it; otherwise its one job runs to its end."""
        return self.renews or self.hours is not None or self.on_demand

    @property
    def renews(self) -> bool:
        """Whether the policy keeps it running at all hours, for some time at least."""
        return self.keep != "off"

    def kept_at(self, now: datetime) -> bool:
        """Tell whether `keep` holds at this time."""
        return self.keep == "forever" or (isinstance(self.keep, datetime) and now < self.keep)

    def idle_limit_s(self, idle_s: float) -> float:
        """Return after how many seconds without a request it is parked while its hours or `keep` hold it.

        idle_s: the usual limit; 0 is never. Hours outlast a long lunch, and still end before Bouchet cancels a GPU
        that was idle for two hours.
        """
        return max(idle_s, LONGEST_PAUSE_S) if idle_s and self.hours is not None else idle_s


OFF = Policy()


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _days_text(days: tuple[int, ...]) -> str:
    """Return days as people write them: `mon-fri`, `sat,sun`, `daily`."""
    wanted = sorted(set(days))
    if len(wanted) == len(DAY_NAMES):
        return "daily"
    if len(wanted) > 2 and wanted == list(range(wanted[0], wanted[-1] + 1)):
        return f"{DAY_NAMES[wanted[0]]}-{DAY_NAMES[wanted[-1]]}"
    return ",".join(DAY_NAMES[day] for day in wanted)
