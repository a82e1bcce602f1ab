"""Which deployment answers a model name: a table built from the live records, and its look-up. Pure.

A name is looked up in this order: a deployment's own names and Hugging Face id; `default`; a Claude name, by its
tier where a deployment was launched for that tier, else as `default`. Case does not matter, and the `[1m]` that
Claude Code hangs on model names is ignored.

Several ready deployments of one model with equal window and traits are replicas: the model's id, `default` and tiers
reach all of them, an alias its own deployment alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bouchet_core.deployments import ClaudeTier, Deployment, Job, Phase, Traits

TIERS = ("opus", "sonnet", "haiku")
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Route:
    """A model that can be asked now. `window`: tokens, None while vLLM has not said; `slot`: the gateway's, 0-based.

    no_tools: why its tools do not work although the catalog says how; empty where they do.
    port, proves: what its server listens on over there, and whether it can be asked for a proof (proof.py).
    """

    deployment: str
    alias: str
    model: str
    slot: int
    job_name: str
    window: int | None
    traits: Traits
    sealed_key: str | None = None
    port: int = 0
    proves: bool = False
    no_tools: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Two or more replicas, the newest first."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A deployment that will answer later, or not any more (draining)."""

    alias: str
    phase: Phase
    reason: str
    progress: str
    start_estimate: datetime | None


@dataclass(frozen=True, slots=True)
class NothingRuns:
    """The name would reach any model, but no deployment is live."""

    catalog: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """The store has not been read yet: nobody can say what runs."""


@dataclass(frozen=True, slots=True)
class NoSuchModel:
    """Nobody serves this name. `in_catalog`: it could be launched."""

    name: str
    served: tuple[str, ...]
    catalog: tuple[str, ...]
    in_catalog: bool


Target = Route | Group | Waiting
Answer = Target | NothingRuns | NoSuchModel | Unknown


@dataclass(frozen=True, slots=True)
class Served:
    """One line of the model list."""

    name: str
    model: str
    created_at: datetime
    window: int | None


@dataclass(frozen=True)
class RoutingTable:
    """Every name that is answered, and by whom. Made by build_table, never changed."""

    names: Mapping[str, Target]
    tiers: Mapping[str, Target]
    default: Target | None
    served: tuple[Served, ...]
    catalog: Mapping[str, str]
    known: bool = True

    def find(self, name: str) -> Answer:
        """Who answers that model name."""
        if not self.known:
            return Unknown()
        wanted = _bare(name)
        if (target := self.names.get(wanted)) is not None:
            return target
        tier = _claude_tier(wanted)
        if wanted == DEFAULT or tier is not None:
            return self.tiers.get(tier or "") or self.default or NothingRuns(tuple(self.catalog.values()))
        return NoSuchModel(name, self.names_served(), tuple(self.catalog.values()), wanted in self.catalog)

    def names_served(self) -> tuple[str, ...]:
        """The aliases that can be asked now."""
        return tuple(line.name for line in self.served)


_Pair = tuple[Deployment, Route | Waiting]

# before the store has been read
UNKNOWN = RoutingTable({}, {}, None, (), {}, known=False)


def build_table(deployments: Iterable[Deployment], catalog: Mapping[str, str]) -> RoutingTable:
    """The table of these live deployments. catalog: every id and alias that may be launched -> what to type for it."""
    ordered = sorted((d for d in deployments if d.is_live), key=_preference)
    targets = [(deployment, _target(deployment)) for deployment in ordered]
    names: dict[str, Target] = {}
    tiers: dict[str, Target] = {}
    for deployment, target in targets:
        for name in deployment.names:
            names.setdefault(name.lower(), target)
    for deployment, target in reversed(targets):
        names[deployment.model.lower()] = _with_replicas(target, targets)
        tiers.update({tier: _with_replicas(target, targets, tier) for tier in deployment.request.serve_as})
    served = tuple(_served(d, t) for d, t in targets if isinstance(t, Route))
    default = _with_replicas(targets[0][1], targets) if targets else None
    return RoutingTable(names, tiers, default, served, {name.lower(): word for name, word in catalog.items()})


def _with_replicas(target: Route | Waiting, targets: Sequence[_Pair], tier: ClaudeTier | None = None) -> Target:
    """The target and all that answer as it does; for a tier without those that were launched for other tiers alone."""
    if isinstance(target, Waiting):
        return target
    alike = [r for d, r in targets if isinstance(r, Route) and _alike(r, target) and _serves(d, tier)]
    return Group(tuple(alike)) if len(alike) > 1 else target


def _alike(one: Route, other: Route) -> bool:
    mine = (one.model.lower(), one.window, one.traits, one.no_tools)
    return mine == (other.model.lower(), other.window, other.traits, other.no_tools)


def _serves(deployment: Deployment, tier: ClaudeTier | None) -> bool:
    return tier is None or not deployment.request.serve_as or tier in deployment.request.serve_as


def _preference(deployment: Deployment) -> tuple[int, float]:
    """Sort key: those that answer first, then those that will, then those that end; the newest first in each."""
    order = {Phase.READY: 0, Phase.STARTING: 1, Phase.QUEUED: 2, Phase.SUBMITTING: 3, Phase.REQUESTED: 4}
    return order.get(deployment.phase, 5), -deployment.created_at.timestamp()


def _target(deployment: Deployment) -> Route | Waiting:
    job = _ready_job(deployment.jobs)
    if deployment.phase is Phase.READY and job is not None:
        return Route(
            deployment=deployment.id,
            alias=deployment.alias,
            model=deployment.model,
            slot=job.slot,
            job_name=job.name,
            window=job.window,
            traits=deployment.traits,
            sealed_key=job.sealed_key,
            port=job.port or 0,
            proves=job.proves,
            no_tools=job.smoke.without_tools if job.smoke is not None else "",
        )
    current = deployment.job
    return Waiting(
        alias=deployment.alias,
        phase=deployment.phase,
        reason=deployment.reason or (current.reason if current else ""),
        progress=current.progress if current else "",
        start_estimate=current.start_estimate if current else None,
    )


def _ready_job(jobs: Sequence[Job]) -> Job | None:
    return next((job for job in reversed(jobs) if job.phase is Phase.READY), None)


def _served(deployment: Deployment, route: Route | Waiting) -> Served:
    window = route.window if isinstance(route, Route) else None
    return Served(deployment.alias, deployment.model, deployment.created_at, window)


def _bare(name: str) -> str:
    lowered = name.strip().lower()
    return lowered[: lowered.rindex("[")] if lowered.endswith("]") and "[" in lowered else lowered


def _claude_tier(wanted: str) -> str | None:
    """The tier of a Claude name, '' for one that names none, None for any other name."""
    if wanted in TIERS:
        return wanted
    if not wanted.startswith("claude"):
        return None
    return next((tier for tier in TIERS if tier in wanted), "")
