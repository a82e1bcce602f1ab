"""GET /v1/status: everything that `bouchet status` shows, in one response."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bouchet_core.deployments import ClusterOutage, Deployment, Ending, Orphan
from bouchet_core.errors import GatewayError
from bouchet_core.tunnel import TunnelStatus
from fastapi import APIRouter
from pydantic import BaseModel, Field

from bouchet_api.dependencies import AppState, StateDep

from .notifications import notifications_problem

router = APIRouter(tags=["status"])

# how long, and how many, deployments that ended unexpectedly stay listed
ENDED_WITHIN = timedelta(hours=12)
MAX_ENDED = 3


class StatusReport(BaseModel):
    """Live deployments, recent failures, the state of the SSH connection, and orphaned jobs."""

    deployments: list[Deployment] = Field(description="all live deployments, newest first")
    ended: list[Deployment] = Field(
        description="deployments that ended unexpectedly in the last 12 hours and whose name no later one has taken; "
        "newest first, at most 3"
    )
    ended_more: int = Field(default=0, description="how many more of them there are")
    tunnel: TunnelStatus | None = Field(description="null when the gateway did not answer")
    tunnel_error: str | None = Field(description="why `tunnel` is null")
    cluster_outage: ClusterOutage | None = Field(
        description="the last failed query to the cluster; null when all queries succeed"
    )
    orphans: list[Orphan] = Field(description="orphaned jobs, as the worker last listed them")
    ledger_problem: str = Field(default="", description="why usage is not stored at the moment; empty when all is well")
    notifications_problem: str = Field(default="", description="why messages are not sent; empty when all is well")


@router.get("/v1/status")
def get_status(state: StateDep) -> StatusReport:
    """Return live deployments, recent failures, the tunnel's state, the cluster's outage and orphaned jobs."""
    live = state.store.live()[::-1]
    ended = ended_unexpectedly(live, state.store.ended_since(datetime.now(UTC) - ENDED_WITHIN))
    tunnel, tunnel_error = _tunnel(state)
    return StatusReport(
        deployments=live,
        ended=ended[:MAX_ENDED],
        ended_more=len(ended[MAX_ENDED:]),
        tunnel=tunnel,
        tunnel_error=tunnel_error,
        cluster_outage=state.store.outage.current(),
        orphans=list(state.store.orphans.seen()),
        # as the ledger's own thread has found it: a database that does not answer must not delay this
        ledger_problem=state.ledger.consumer.problem,
        notifications_problem=notifications_problem(state),
    )


def ended_unexpectedly(live: Sequence[Deployment], ended: Sequence[Deployment]) -> list[Deployment]:
    """Return those of `ended` that were not cancelled and whose alias no later deployment has, newest first.

    `ended` are all deployments that ended recently: a later deployment of the same name is among them or live.
    """
    names: set[str] = set()
    found: list[Deployment] = []
    for deployment in sorted((*live, *ended), key=lambda record: record.created_at, reverse=True):
        is_expected = deployment.ending in (Ending.CANCELLED, Ending.DETACHED)
        if not deployment.is_live and not is_expected and deployment.alias not in names:
            found.append(deployment)
        names.update(deployment.names)
    return found


def _tunnel(state: AppState) -> tuple[TunnelStatus | None, str | None]:
    try:
        return state.tunnel(), None
    except GatewayError as exc:
        return None, str(exc)
