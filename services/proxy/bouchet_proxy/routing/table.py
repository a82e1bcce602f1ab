"""The routing table: from a model name to a deployment. Built from the live records. Pure.

A name is resolved in this order: a deployment's own names and Hugging Face id; `default`; a Claude model name, by its
tier where a deployment was launched for that tier, else like `default`. Case does not matter, and the `[1m]` that
Claude Code appends to model names is ignored.

Several ready deployments of one model with equal context window and traits are replicas: the model's id, `default` and
tiers reach all of them, an alias only its own deployment.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches

from bouchet_core.deployments import ClaudeTier, Deployment, Job, Phase, Traits
from bouchet_core.policy.weekly import window_at

TIERS = ("opus", "sonnet", "haiku")
DEFAULT = "default"
# names are compared up to this length; from 0 (nothing in common) to 1
MAX_COMPARED, SIMILARITY = 100, 0.6
# whom other gateways name before a Claude model: `anthropic/`, `openrouter/anthropic/`, `us.anthropic.`
_PROVIDER = re.compile(r"^(?:[\w-]{1,20}[/.]){0,3}anthropic[/.](?=claude)|^(?:bedrock|vertex_ai)/(?=claude)")


@dataclass(frozen=True, slots=True)
class Route:
    """A ready model. window: context length in tokens, None until vLLM reports it; slot: the gateway's, 0-based.

    port: the server's port on its node, 0 for a UNIX socket. authenticates: whether the server can prove that it holds
    the job's key (http/pool.py). resumes: whether it keeps answers whose connections are lost (http/resumption.py).
    no_tools: why tool calls do not work although the catalog names a parser. attached: a server that runs without a job
    of ours. server_model: what it calls the model, if not by the alias. is_vllm: whether it takes vLLM's own fields.
    translates: it does not speak Anthropic's dialect, so that messages become chats.
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
    authenticates: bool = False
    resumes: bool = False
    no_tools: str = ""
    attached: bool = False
    server_model: str = ""
    is_vllm: bool = True
    translates: bool = False

    @property
    def served_as(self) -> str:
        """What the server calls the model."""
        return self.server_model or self.alias

    @property
    def identity(self) -> tuple[str, str]:
        """The deployment and the job that it leads to."""
        return self.deployment, self.job_name


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """Two or more replicas, of one deployment or of several, the newest first."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class NotReady:
    """A live deployment that is not ready yet, that is draining, or that is parked.

    wakes: a request makes the worker start it. expected_s: how long a start takes, measured; None: not known.
    attached: a server that runs without a job of ours, and cannot be reached now.
    """

    alias: str
    phase: Phase
    reason: str
    progress: str
    start_estimate: datetime | None
    deployment: str = ""
    wakes: bool = False
    expected_s: float | None = None
    attached: bool = False


@dataclass(frozen=True, slots=True)
class NoModelRunning:
    """The name would reach any model, but no deployment is live."""

    catalog: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableNotLoaded:
    """The store has not been read yet, so it is unknown what runs."""


@dataclass(frozen=True, slots=True)
class UnknownModel:
    """No deployment has this name. in_catalog: it could be launched. similar: the name of a model that may be meant."""

    name: str
    running: tuple[str, ...]
    catalog: tuple[str, ...]
    in_catalog: bool
    similar: str = ""


RouteTarget = Route | ReplicaGroup | NotReady
LookupResult = RouteTarget | NoModelRunning | UnknownModel | TableNotLoaded


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One entry of the model list."""

    name: str
    model: str
    created_at: datetime
    window: int | None


@dataclass(frozen=True)
class RoutingTable:
    """Every name that a request may use, and where it leads. Made by build_table, never changed.

    servers: the port of each live job's server, by the job's name.
    """

    names: Mapping[str, RouteTarget]
    tiers: Mapping[str, RouteTarget]
    default: RouteTarget | None
    models: tuple[ListedModel, ...]
    catalog: Mapping[str, str]
    loaded: bool = True
    servers: Mapping[str, int] = field(default_factory=dict)

    def has_server(self, route: Route) -> bool:
        """Return whether the server of that route may still run: its job has not ended, and listens where it did."""
        return not self.loaded or self.servers.get(route.job_name) == route.port

    def find(self, name: str) -> LookupResult:
        """Return where that model name leads."""
        if not self.loaded:
            return TableNotLoaded()
        wanted = _normalize(name)
        if (target := self.names.get(wanted)) is not None:
            return target
        tier = _claude_tier(wanted)
        if wanted == DEFAULT or tier is not None:
            return self.tiers.get(tier or "") or self.default or NoModelRunning(tuple(self.catalog.values()))
        running = tuple(entry.name for entry in self.models)
        similar = "" if wanted in self.catalog else self._similar(wanted)
        return UnknownModel(name, running, tuple(self.catalog.values()), wanted in self.catalog, similar)

    def _similar(self, wanted: str) -> str:
        """Return the running model whose name is most like the wanted one, '' if none is."""
        shorts = {_short(name): entry.name for entry in self.models for name in (entry.model, entry.name)}
        found = get_close_matches(_short(wanted[:MAX_COMPARED]), shorts, 1, SIMILARITY)
        return shorts[found[0]] if found else ""


# the routes of its jobs that take requests, or why there is none
_Pair = tuple[Deployment, "tuple[Route, ...] | NotReady"]

# before the store has been read
NOT_LOADED = RoutingTable({}, {}, None, (), {}, loaded=False)


def build_table(
    deployments: Iterable[Deployment], catalog: Mapping[str, str], now: datetime | None = None
) -> RoutingTable:
    """Build the table of these live deployments. catalog: every id and alias -> the name to launch it with."""
    moment = now or datetime.now(UTC)
    ordered = sorted((d for d in deployments if d.is_live), key=_preference)
    targets: list[_Pair] = [
        (deployment, _routes(deployment) or _not_ready(deployment, moment)) for deployment in ordered
    ]
    names: dict[str, RouteTarget] = {}
    tiers: dict[str, RouteTarget] = {}
    aliases = {deployment.alias.lower() for deployment in ordered}
    for deployment, found in targets:
        for name in deployment.names:
            if name == deployment.alias or not _misleads(deployment, name, aliases):
                names.setdefault(name.lower(), _one_or_group(found))
    for deployment, found in reversed(targets):
        if not _misleads(deployment, deployment.model, aliases):
            names[deployment.model.lower()] = _with_replicas(found, targets)
        tiers.update({tier: _with_replicas(found, targets, tier) for tier in deployment.request.serve_as})
    models = tuple(_listed(d, found) for d, found in targets if not isinstance(found, NotReady) or d.stays)
    default = _with_replicas(targets[0][1], targets) if targets else None
    lowered = {name.lower(): alias for name, alias in catalog.items()}
    return RoutingTable(names, tiers, default, models, lowered, servers=_servers(ordered))


def _misleads(deployment: Deployment, name: str, aliases: Collection[str]) -> bool:
    """Tell whether an attached server calls its model by a name that is not its own to have.

    Its owner chooses that name: it must not take the requests for a deployment of ours, `default` or a Claude name.
    """
    wanted = _normalize(name)
    is_taken = wanted == DEFAULT or _claude_tier(wanted) is not None or wanted in aliases
    return deployment.attached is not None and wanted != deployment.alias.lower() and is_taken


def _servers(deployments: Iterable[Deployment]) -> dict[str, int]:
    jobs = (job for deployment in deployments for job in deployment.jobs)
    return {job.name: job.port or 0 for job in jobs if job.listens and job.phase is not Phase.ENDED}


def _with_replicas(
    found: tuple[Route, ...] | NotReady, targets: Sequence[_Pair], tier: ClaudeTier | None = None
) -> RouteTarget:
    """Return the target with its replicas; for a tier without those that were launched for other tiers only."""
    if isinstance(found, NotReady):
        return found
    serving = [(d, routes) for d, routes in targets if not isinstance(routes, NotReady) and _serves(d, tier)]
    replicas = [route for _, routes in serving for route in routes if _are_replicas(route, found[0])]
    return _one_or_group(tuple(replicas) or found)


def _one_or_group(found: tuple[Route, ...] | NotReady) -> RouteTarget:
    if isinstance(found, NotReady):
        return found
    return found[0] if len(found) == 1 else ReplicaGroup(found)


def _are_replicas(one: Route, other: Route) -> bool:
    if one.attached or other.attached:
        # its server proves nothing, so requests for the model's id are not spread over it and our own jobs
        return one.identity == other.identity
    equal = (one.model.lower(), one.window, one.traits, one.no_tools)
    return equal == (other.model.lower(), other.window, other.traits, other.no_tools)


def _serves(deployment: Deployment, tier: ClaudeTier | None) -> bool:
    return tier is None or not deployment.request.serve_as or tier in deployment.request.serve_as


def _preference(deployment: Deployment) -> tuple[int, bool, float]:
    """Return the sort key: ready ones first, then those that will be, then those that end.

    In each our own jobs come before attached servers, and the newest first.
    """
    order = {Phase.READY: 0, Phase.STARTING: 1, Phase.QUEUED: 2, Phase.SUBMITTING: 3, Phase.REQUESTED: 4}
    return order.get(deployment.phase, 5), deployment.attached is not None, -deployment.created_at.timestamp()


def _routes(deployment: Deployment) -> tuple[Route, ...]:
    """Return the routes to all jobs that take new requests, the newest job first."""
    serving = [
        job
        for job in deployment.live_jobs
        if job.phase is Phase.READY and job.leaving_since is None and job.stop_requested_at is None
    ]
    newest = sorted(serving, key=lambda job: job.since.get(Phase.READY, deployment.created_at), reverse=True)
    return tuple(_route(deployment, job) for job in newest)


def _route(deployment: Deployment, job: Job) -> Route:
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
        authenticates=job.proves,
        resumes=job.proves and job.resumes >= 1,
        no_tools=job.smoke.without_tools if job.smoke is not None else "",
        attached=deployment.attached is not None,
        server_model=deployment.served_as,
        is_vllm=deployment.attached is None or job.vllm_version is not None,
        translates=deployment.attached is not None and "anthropic" not in deployment.attached.dialects,
    )


def _not_ready(deployment: Deployment, now: datetime) -> NotReady:
    current = deployment.job
    is_parked = deployment.phase is Phase.PARKED
    return NotReady(
        alias=deployment.alias,
        phase=deployment.phase,
        reason=deployment.reason or (current.reason if current else ""),
        progress=current.progress if current and not is_parked else "",
        start_estimate=current.start_estimate if current and not is_parked else None,
        deployment=deployment.id,
        wakes=_wakes(deployment, now),
        expected_s=_expected_s(deployment),
        attached=deployment.attached is not None,
    )


def _wakes(deployment: Deployment, now: datetime) -> bool:
    """Tell whether the policy starts it for a request."""
    policy = deployment.policy
    if not deployment.stays or deployment.service.paused or (policy.begin is not None and now < policy.begin):
        return False
    if policy.hours is not None and not policy.on_demand:
        return window_at(policy.hours, now) is not None
    return policy.on_demand or policy.kept_at(now)


def _expected_s(deployment: Deployment) -> float | None:
    """Return the seconds from submission to ready of its last start."""
    measured = [sum(v for k, v in job.times.items() if k != "ready") for job in deployment.jobs if "ready" in job.times]
    return measured[-1] if measured else None


def _listed(deployment: Deployment, found: tuple[Route, ...] | NotReady) -> ListedModel:
    job = deployment.job
    window = found[0].window if not isinstance(found, NotReady) else (job.window if job is not None else None)
    return ListedModel(deployment.alias, deployment.model, deployment.created_at, window)


def _short(name: str) -> str:
    """Return what a model is called without its owner and this project's prefix."""
    return name.lower().rpartition("/")[2].removeprefix("bouchet-")


def _normalize(name: str) -> str:
    lowered = name.strip().lower()
    return lowered[: lowered.rindex("[")] if lowered.endswith("]") and "[" in lowered else lowered


def _claude_tier(wanted: str) -> str | None:
    """Return the tier of a Claude name, '' for one that names none, None for any other name."""
    if wanted in TIERS:
        return wanted
    if not _PROVIDER.sub("", wanted).startswith("claude"):
        return None
    return next((tier for tier in TIERS if tier in wanted), "")
