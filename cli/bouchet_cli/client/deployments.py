"""Deployments as the API returns them, and which one a name on the command line means.

Fields that an older or newer API leaves out are None or empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from .errors import NotReadyError, UsageError
from .http import Json

NO_TOOL_PARSER = "its catalog entry has no tool_parser"
NOTHING_RUNNING = "no deployment is running; start one with `bouchet launch`"


@dataclass(frozen=True)
class JobInfo:
    """The Slurm job of a deployment."""

    slurm_id: int | None = None
    node: str | None = None
    # tokens
    window: int | None = None
    # the step of the start-up
    progress: str = ""
    # all steps of the start-up so far
    steps: tuple[str, ...] = ()
    start_estimate: datetime | None = None
    # partition and GPUs
    resources: str = ""

    @classmethod
    def from_json(cls, raw: Json) -> JobInfo:
        """Parse one element of a deployment's `jobs`."""
        placement: Json = raw.get("placement") or {}
        nodes = f"{placement['nodes']} nodes with " if placement.get("nodes", 1) > 1 else ""
        gpus = f"{nodes}{placement['gpus']} x {placement['gpu_type']}" if placement else ""
        estimate = raw.get("start_estimate")
        return cls(
            slurm_id=raw.get("slurm_id"),
            node=raw.get("node"),
            window=raw.get("window"),
            progress=raw.get("progress") or "",
            steps=tuple(raw.get("steps") or ()),
            start_estimate=datetime.fromisoformat(estimate) if estimate else None,
            resources=f"{placement['partition']}, {gpus}" if placement else "",
        )


# characters of an id's beginning or a name's end that may stand for it
SHORTEST_PART = 3


@dataclass(frozen=True)
class DeploymentInfo:
    """A deployment. `raw` is the API's own JSON."""

    id: str
    model: str
    names: tuple[str, ...]
    phase: str
    created_at: datetime
    updated_at: datetime
    ending: str | None = None
    reason: str = ""
    stopping: bool = False
    # tokens
    max_output: int = 32_000
    serve_as: tuple[str, ...] = ()
    job: JobInfo = JobInfo()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def alias(self) -> str:
        """The name that clients use."""
        return self.names[0]

    @property
    def state(self) -> str:
        """The phase; once it has ended, how it ended. `idle` alone would read as if it were still running."""
        if self.phase == "starting" and self.attached:
            return "unreachable"
        if self.phase != "ended":
            return self.phase
        return "ended" if self.ending in (None, "idle") else str(self.ending)

    @property
    def attached(self) -> Json:
        """What is known of a server that others run; empty for a deployment of ours."""
        return self.raw.get("attached") or {}

    @property
    def wakes(self) -> bool:
        """Whether it is parked, and a request starts it."""
        on_demand = bool((self.raw.get("policy") or {}).get("on_demand"))
        paused = (self.raw.get("service") or {}).get("paused")
        return self.phase == "parked" and on_demand and not self.stopping and not paused

    @property
    def explanation(self) -> str:
        """Why the deployment is in its phase; while it starts, the current step."""
        return self.job.progress if self.phase == "starting" and self.job.progress else self.reason

    @property
    def broken_tools(self) -> str:
        """Why the proxy refuses tools or leaves them out: the smoke test, or the catalog; empty if they work."""
        traits: Json | None = self.raw.get("traits")
        if traits is not None and not traits.get("tool_parser"):
            return NO_TOOL_PARSER
        jobs: Sequence[Json] = self.raw.get("jobs") or ({},)
        tools: Json = (jobs[-1].get("smoke") or {}).get("tools") or {}
        return str(tools.get("message") or "") if tools.get("result") == "failed" else ""

    @property
    def tool_search(self) -> bool:
        """Whether Claude Code loads most tools when it needs them (the catalog's `tool_search`)."""
        return bool((self.raw.get("traits") or {}).get("tool_search", True))

    def matches_part(self, name: str) -> bool:
        """Return whether the name begins this id, or ends its alias after a dash."""
        wanted = name.lower()
        return len(wanted) >= SHORTEST_PART and (self.id.startswith(wanted) or self.alias.endswith(f"-{wanted}"))

    def matches(self, name: str) -> bool:
        """Return whether the name is this deployment's id, one of its names or its model."""
        return name.lower() in (self.id, *(own.lower() for own in self.names), self.model.lower())

    @classmethod
    def from_json(cls, raw: Json) -> DeploymentInfo:
        """Parse the body of GET /v1/deployments/ID."""
        jobs: Sequence[Json] = raw.get("jobs") or ()
        return cls(
            id=raw["id"],
            model=raw["model"],
            names=tuple(raw["names"]),
            phase=raw["phase"],
            created_at=datetime.fromisoformat(raw["created_at"]),
            updated_at=datetime.fromisoformat(raw["updated_at"]),
            ending=raw.get("ending"),
            reason=raw.get("reason") or "",
            stopping=raw.get("stop_requested_at") is not None,
            max_output=(raw.get("traits") or {}).get("max_output", 32_000),
            serve_as=tuple((raw.get("request") or {}).get("serve_as") or ()),
            job=JobInfo.from_json(jobs[-1]) if jobs else JobInfo(),
            raw=raw,
        )


def ready_deployment(live: Sequence[DeploymentInfo], name: str | None, *, wakes: bool = False) -> DeploymentInfo:
    """Return the newest ready deployment, or the newest of that name. live: newest first.

    wakes: one that is parked will do if none is ready or on its way, because a request starts it. Raises NotReadyError,
    which names what is running instead.
    """
    matching = [d for d in live if name is None or d.matches(name)]
    ready = [d for d in matching if d.phase == "ready" and not d.stopping]
    if wakes and pending_deployment(matching, None) is None:
        ready += [d for d in matching if d.wakes]
    if ready:
        return ready[0]
    if matching:
        first = matching[0]
        raise NotReadyError(f"{first.alias} is not ready yet: {phase_text(first)}; see `bouchet status`")
    if name is None or not live:
        raise NotReadyError(NOTHING_RUNNING)
    raise NotReadyError(f"no running deployment is named {name}; running: {', '.join(d.alias for d in live)}")


def pending_deployment(live: Sequence[DeploymentInfo], name: str | None) -> DeploymentInfo | None:
    """Return the newest deployment (of that name) that will become ready, None if there is none."""
    matching = [d for d in live if (name is None or d.matches(name)) and not d.stopping]
    # a parked one does not start by being waited for
    return next((d for d in matching if d.phase not in ("ended", "draining", "parked")), None)


def phase_text(deployment: DeploymentInfo) -> str:
    """Return the phase with its explanation."""
    return f"{deployment.state} ({deployment.explanation})" if deployment.explanation else deployment.state


def unique_match(name: str, deployments: Sequence[DeploymentInfo]) -> DeploymentInfo | None:
    """Return the only deployment that a part of an id or name means, live ones before ended ones; None without one.

    Raises UsageError where it means several.
    """
    found = [deployment for deployment in deployments if deployment.matches_part(name)]
    live = [deployment for deployment in found if deployment.phase != "ended"] or found
    if len(live) > 1:
        raise UsageError(f"{name!r} may mean {', '.join(f'{d.alias} ({d.id})' for d in live[:5])}; write more of it")
    return live[0] if live else None
