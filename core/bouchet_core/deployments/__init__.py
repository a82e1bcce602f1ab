"""Deployments, their jobs and their phases: the records that everything else is about."""

from .jobs import (
    LEGAL_MOVES,
    ClaudeTier,
    Ending,
    Job,
    LaunchRequest,
    MemoryEstimate,
    Phase,
    Placement,
    Traits,
)
from .record import (
    DECISIONS_KEPT,
    ENDED_JOBS_KEPT,
    ClusterOutage,
    Deployment,
    DeploymentEvent,
    Orphan,
    PlanDecision,
    ServiceState,
    gpu_seconds,
)

__all__ = [
    "DECISIONS_KEPT",
    "ENDED_JOBS_KEPT",
    "LEGAL_MOVES",
    "ClaudeTier",
    "ClusterOutage",
    "Deployment",
    "DeploymentEvent",
    "Ending",
    "Job",
    "LaunchRequest",
    "MemoryEstimate",
    "Orphan",
    "Phase",
    "Placement",
    "PlanDecision",
    "ServiceState",
    "Traits",
    "gpu_seconds",
]
