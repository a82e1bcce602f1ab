"""A policy as people send it: texts such as `3d` or `mon-fri 08:30-18:00`, to begin with or to change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from pydantic import Field, StrictBool, StringConstraints

from bouchet_core.errors import LaunchRefusedError
from bouchet_core.values import DeploymentName, FrozenModel

from .model import Keep, Policy, Replicas
from .parsing import find_zone, parse_budget, parse_hours, parse_keep, parse_moment, parse_replicas

PolicyText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ZoneName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}$")]
OFF_TEXT = "off"
# fields of a policy that submits nothing
UNMANAGED = {"replicas": Replicas(), "begin": None}


class PolicyRequest(FrozenModel):
    """What a policy is to be, as text. null keeps what it is; `off` removes it."""

    keep: PolicyText | None = Field(
        default=None, examples=["3d"], description="how long successors are submitted: a time span, forever or off"
    )
    until: PolicyText | None = Field(default=None, examples=["18:00"], description="the same as a time")
    on_demand: StrictBool | None = Field(
        default=None, description="no job while no request comes; a request starts one"
    )
    replicas: PolicyText | None = Field(default=None, examples=["1..3"], description="jobs that serve at the same time")
    hours: PolicyText | None = Field(
        default=None, examples=["mon-fri 08:30-18:00"], description="weekly hours in which it runs"
    )
    begin: PolicyText | None = Field(default=None, examples=["mon 08:00"], description="no job runs before this time")
    budget: PolicyText | None = Field(default=None, examples=["40h/week"], description="what its jobs may use")
    exclusive_group: DeploymentName | None = Field(
        default=None, description="deployments of a group share GPUs: waking one parks another that is idle"
    )
    time_zone: ZoneName | None = Field(
        default=None, examples=["America/New_York"], description="IANA name of the zone in which the times are meant"
    )

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing."""
        return not self.model_dump(exclude_none=True, exclude={"time_zone"})

    def applied_to(self, policy: Policy, now: datetime) -> Policy:
        """Return the policy after these changes. Raises LaunchRefusedError with words that work."""
        zone = policy.zone if self.time_zone is None else find_zone(self.time_zone).key
        changes: dict[str, object] = {"zone": zone, "keep": self._keep(policy, now, zone)}
        if self.begin is not None:
            changes["begin"] = _or_off(self.begin, lambda text: parse_moment(text, now, zone, "--begin"))
        if self.hours is not None:
            changes["hours"] = _or_off(self.hours, lambda text: parse_hours(text, zone))
        if self.budget is not None:
            changes["budget"] = _or_off(self.budget, parse_budget)
        if self.replicas is not None:
            changes["replicas"] = Replicas() if _is_off(self.replicas) else parse_replicas(self.replicas)
        if self.on_demand is not None:
            changes["on_demand"] = self.on_demand
        if self.exclusive_group is not None:
            changes["exclusive_group"] = None if self.exclusive_group == OFF_TEXT else self.exclusive_group
        new = policy.model_copy(update=changes)
        if policy.is_managed and not new.is_managed:
            # what only makes sense while jobs are renewed ends with that, unless this very request asks for it
            new = new.model_copy(update={f: v for f, v in UNMANAGED.items() if getattr(self, f) is None})
        return _checked(new, now)

    def _keep(self, policy: Policy, now: datetime, zone: str) -> Keep:
        if self.keep is not None and self.until is not None:
            raise LaunchRefusedError("--keep and --until both say how long: use one of them")
        if self.keep is not None:
            return parse_keep(self.keep, now)
        if self.until is not None:
            return parse_moment(self.until, now, zone)
        # a time that is over is no reason to refuse another change
        is_over = isinstance(policy.keep, datetime) and policy.keep <= now
        return "off" if is_over else policy.keep


def _checked(policy: Policy, now: datetime) -> Policy:
    """Return the policy, or refuse what does nothing together."""
    if policy.begin is not None and isinstance(policy.keep, datetime) and policy.begin >= policy.keep:
        raise LaunchRefusedError("--begin is after the end of --keep: nothing would ever run; choose a later end")
    if policy.replicas.high > 1 and not policy.is_managed:
        raise LaunchRefusedError("--replicas needs jobs that are renewed: add --keep 1d, --hours or --on-demand")
    if policy.begin is not None and not policy.is_managed:
        raise LaunchRefusedError("--begin needs to know how long: add --keep 1d, --until or --hours")
    return policy


def _or_off(text: str, parse: Callable[[str], object]) -> object:
    return None if _is_off(text) else parse(text)


def _is_off(text: str) -> bool:
    return text.strip().lower() == OFF_TEXT
