"""/v1/deployments: launch, preview, list, get and cancel deployments."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

from bouchet_core.config.catalog import entry_of
from bouchet_core.deployments import (
    ClusterOutage,
    Deployment,
    Ending,
    Job,
    LaunchRequest,
    MemoryEstimate,
    Phase,
    Placement,
)
from bouchet_core.deployments.attached import AttachRequest
from bouchet_core.errors import LaunchRefusedError, NameTakenError, UnknownDeploymentError
from bouchet_core.placement import candidates
from bouchet_core.policy.checks import check_launch, measured_startup_s
from bouchet_core.policy.request import PolicyRequest
from bouchet_core.store import Store
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import BaseModel, Field

from bouchet_api import attaching
from bouchet_api.dependencies import AppState, DeploymentDep, StateDep
from bouchet_api.new_deployment import (
    PREVIEW_ID,
    RECORD_REQUIRED,
    new_deployment,
    new_id,
    relaunch,
    resolve_names,
    with_alias_only,
)
from bouchet_api.openapi import examples
from bouchet_api.problems import IdempotencyKeyReusedError

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/deployments", tags=["deployments"])

IDEMPOTENCY = (
    "A unique string of your choice. A request that is sent again with the same key and body, for example because the "
    "response was lost, returns the first deployment and creates no second one; with another body it is refused. "
    "Remembered for 24 h."
)
# deployments whose starts are compared with the walltime of a new one
RECENT = 30
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"content": {"application/json": {"example": examples.DEPLOYMENT}}} for code in (200, 202)
}


class DeploymentPage(BaseModel):
    """Deployments, newest first."""

    deployments: list[Deployment]
    next_offset: int | None = Field(default=None, description="`offset` of the next page, null on the last")
    cluster_outage: ClusterOutage | None = Field(
        default=None, description="the last failed query to the cluster; null when all queries succeed"
    )


class LaunchPreview(BaseModel):
    """What a launch would submit. `preview` in names and paths is replaced by the id on a real launch."""

    job_name: str
    placement: Placement
    image: str
    window: int
    memory: MemoryEstimate
    folder: str = Field(description="the job's folder on the cluster")
    script: str = Field(description="the batch script")
    command: list[str] = Field(description="arguments of the command that submits it")
    cost: str = Field(default="", description="what the job costs if it runs to its walltime, as text")
    idle_timeout_min: int = Field(default=0, description="minutes without requests after which it ends; 0: never")
    serve_as: list[str] = Field(default=[], description="Claude tiers that it would serve")
    files: dict[str, str] = Field(description="the job's files by name, without its key")


@router.post(
    "", status_code=202, responses={202: {**RESPONSES[202], "description": "recorded; GET Location follows it"}}
)
def launch(
    state: StateDep,
    response: Response,
    request: Annotated[LaunchRequest, Body(openapi_examples=examples.LAUNCH)],
    idempotency_key: Annotated[
        str | None,
        Header(pattern=r"^[A-Za-z0-9_.:-]{1,200}$", description=IDEMPOTENCY),
    ] = None,
) -> Deployment:
    """Launch a model. Returns at once; the worker submits the job."""
    new = _new_record(state, request, new_id())
    record = _create(state.store, new, idempotency_key)
    if record.request != new.request:
        raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request; choose a new one")
    if record.phase is Phase.REQUESTED:
        state.tasks.enqueue(TaskName.SUBMIT, record.id)
        log.info("deployment %s: %s requested as %s", record.id, record.model, record.alias)
    response.headers["Location"] = f"/v1/deployments/{record.id}"
    return record


@router.post("/preview", responses={200: {"content": {"application/json": {"example": examples.PREVIEW}}}})
def preview_launch(
    state: StateDep, request: Annotated[LaunchRequest, Body(openapi_examples=examples.LAUNCH)]
) -> LaunchPreview:
    """Show in full what a launch would submit. Nothing is submitted, recorded or written to the cluster."""
    record = resolve_names(_new_record(state, request, PREVIEW_ID), state.store.live())
    return LaunchPreview.model_validate(state.tasks.query(TaskName.PREVIEW, record.model_dump(mode="json")))


@router.post("/attach", status_code=201, responses=attaching.RESPONSES)
def attach_server(
    state: StateDep,
    response: Response,
    request: Annotated[AttachRequest, Body(openapi_examples=attaching.EXAMPLES)],
) -> Deployment:
    """Serve a server that runs on the cluster's network without a job of ours: a colleague's, or the centre's.

    It is asked which models it has before it is attached, and its key is stored sealed. It is listed with the
    deployments, shown as not ours, and never cancelled: DELETE of the deployment only detaches it.
    """
    attaching.check_request(request, state.store.live())
    task = attaching.sealed_request(request, new_id(), state.attach_secret)
    record = Deployment.model_validate(state.tasks.query(TaskName.ATTACH, task, wait_s=attaching.WAIT_S))
    log.info("deployment %s: attached %s:%s as %s", record.id, request.node, request.port, record.alias)
    response.headers["Location"] = f"/v1/deployments/{record.id}"
    return record


@router.get("")
def list_deployments(
    state: StateDep,
    live: Annotated[bool, Query(description="only those that have not ended")] = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> DeploymentPage:
    """List deployments, newest first, including ended ones unless `live`."""
    if live:
        found = state.store.live()[::-1][offset : offset + limit + 1]
    else:
        found = state.store.page(limit + 1, offset)
    following = offset + limit if len(found) > limit else None
    outage = state.store.outage.current()
    return DeploymentPage(deployments=found[:limit], next_offset=following, cluster_outage=outage)


@router.get("/{deployment:path}", responses={200: RESPONSES[200]})
def get_deployment(deployment: DeploymentDep) -> Deployment:
    """Return one deployment by its id, or by one of its names while it is live."""
    return deployment


@router.patch("/{deployment:path}", responses={200: RESPONSES[200]})
def change_policy(
    state: StateDep,
    deployment: DeploymentDep,
    request: Annotated[PolicyRequest, Body(openapi_examples=examples.POLICY)],
) -> Deployment:
    """Change how long, when and for how much a deployment is kept. An empty body resumes one that is paused."""
    now = datetime.now(UTC)
    record = state.store.update(deployment.id, lambda old: _with_policy(state, old, request, now))
    log.info("deployment %s: policy is now %s", record.id, record.policy.model_dump(mode="json", exclude_defaults=True))
    return record


@router.delete(
    "/{deployment:path}",
    status_code=202,
    responses={
        202: {**RESPONSES[202], "description": "cancel requested"},
        200: {**RESPONSES[200], "model": Deployment, "description": "it had ended already"},
    },
)
def cancel_deployment(state: StateDep, response: Response, deployment: DeploymentDep) -> Deployment:
    """Cancel a deployment and release its GPUs; safe to repeat. An attached server is only detached, and goes on."""
    now = datetime.now(UTC)
    record = state.store.update(deployment.id, lambda old: _with_cancel_request(old, now))
    if record.is_live:
        state.tasks.enqueue(TaskName.CANCEL, record.id)
        log.info("deployment %s: cancel requested", record.id)
    elif record.attached is None or not deployment.is_live:
        response.status_code = 200
    return record


def _new_record(state: AppState, request: LaunchRequest, identity: str) -> Deployment:
    """Return the record for this request; raise LaunchRefusedError for what can never run at this site."""
    catalog, now = state.catalog.current(), datetime.now(UTC)
    if request.like is None:
        measured = state.store.page(RECENT, 0) if request.policy is not None else ()
        return new_deployment(request, catalog, state.site, identity, now, measured)
    try:
        earlier = state.store.get(request.like)
    except UnknownDeploymentError as exc:
        raise UnknownDeploymentError(request.like, RECORD_REQUIRED) from exc
    return relaunch(earlier, request, catalog, state.site, identity, now)


def _create(store: Store, new: Deployment, key: str | None) -> Deployment:
    """Store the record, or return the one stored earlier for the same key.

    When a live deployment has the model's id as a name, the record is stored without that id.
    """
    try:
        return store.create(new, once=key)
    except NameTakenError as exc:
        if exc.name != new.model:
            raise
    return store.create(with_alias_only(new), once=key)


def _with_policy(state: AppState, record: Deployment, request: PolicyRequest, now: datetime) -> Deployment:
    """Return the record with the new policy. Raises LaunchRefusedError for one that has ended or cannot follow it."""
    if not record.is_live or record.stop_requested_at is not None:
        raise LaunchRefusedError(f"{record.alias} has ended; launch it again with `bouchet launch {record.model}`")
    if record.attached is not None:
        raise LaunchRefusedError(f"{record.alias} is attached, not ours: it has no job that could be kept or renewed")
    policy = request.applied_to(record.policy, now)
    if policy != record.policy:
        entry = entry_of(record, state.catalog.current())
        found = candidates(entry, record.request, state.site, {})
        check_launch(policy, found, state.site, now, measured_startup_s([record], record.model))
    new = record.model_copy(update={"policy": policy, "updated_at": now})
    new = new.with_service(now, changed_at=now, paused="", waits="")
    if policy.is_managed:
        return new if new.live_jobs else new.with_service(now, parked_at=None).settled()
    # nothing is renewed from now on: a successor that has not begun to serve is not needed, if another job stays
    coming = [job for job in new.live_jobs if job.replaces is not None and job.phase not in _SERVED]
    for job in coming if any(job not in coming and _stays(job) for job in new.live_jobs) else ():
        stopped = {"stop_requested_at": now, "retired_because": "its deployment is no longer renewed"}
        new = new.with_job(job.model_copy(update=stopped), now)
    return new.settled() if new.live_jobs else new.ended(Ending.COMPLETED, now, "it is no longer kept")


_SERVED = (Phase.READY, Phase.DRAINING)


def _stays(job: Job) -> bool:
    """Tell whether the job runs to its end: it neither ends just now nor takes its last answers."""
    return job.phase is not Phase.DRAINING and job.leaving_since is None and job.stop_requested_at is None


def _with_cancel_request(record: Deployment, now: datetime) -> Deployment:
    if record.attached is not None:
        return record.detached(now)
    return record.asked_to_stop(now) if record.is_live and record.stop_requested_at is None else record
