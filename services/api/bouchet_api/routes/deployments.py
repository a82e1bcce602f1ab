"""/v1/deployments: ask for one, look at them, end one."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

from bouchet_core.deployments import ClusterOutage, Deployment, LaunchRequest, MemoryEstimate, Phase, Placement
from bouchet_core.errors import NameTakenError, UnknownDeploymentError
from bouchet_core.store import Store
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import BaseModel, Field

from bouchet_api.dependencies import DeploymentDep, Parts, PartsDep
from bouchet_api.new_deployment import PREVIEW_ID, named_among, new_id, refuse_misfit, requested, without_model_name
from bouchet_api.openapi import examples
from bouchet_api.problems import IdempotencyKeyReusedError
from bouchet_api.relaunch import NO_RECORD, like, refuse_other_hardware

log = logging.getLogger(__name__)
IDEMPOTENCY = (
    "A word of your own for this request. Sent again with the same body (because the answer was lost, say) it answers "
    "with the deployment made the first time and makes no second one; with another body it is refused. "
    "Remembered for 24 h."
)
router = APIRouter(prefix="/v1/deployments", tags=["deployments"])

SHOWN: dict[int | str, dict[str, Any]] = {
    code: {"content": {"application/json": {"example": examples.DEPLOYMENT}}} for code in (200, 202)
}


class Page(BaseModel):
    """Deployments, newest first."""

    deployments: list[Deployment]
    next_offset: int | None = Field(default=None, description="`offset` of the next page, null on the last")
    cluster_outage: ClusterOutage | None = Field(
        default=None, description="what of the cluster could not be asked lately"
    )


class Preview(BaseModel):
    """What a launch would do. Where `preview` stands in names and paths, the launch has the deployment's id."""

    job_name: str
    placement: Placement
    image: str
    window: int
    memory: MemoryEstimate
    folder: str = Field(description="the job's folder on the cluster, where its files would lie")
    script: str = Field(description="the batch script")
    command: list[str] = Field(description="the command that would submit it, word by word")
    files: dict[str, str] = Field(description="the job's files by name, without its key")


@router.post("", status_code=202, responses={202: {**SHOWN[202], "description": "on record; GET Location follows it"}})
def launch(
    parts: PartsDep,
    response: Response,
    request: Annotated[LaunchRequest, Body(openapi_examples=examples.LAUNCH)],
    idempotency_key: Annotated[
        str | None,
        Header(pattern=r"^[A-Za-z0-9_.:-]{1,200}$", description=IDEMPOTENCY),
    ] = None,
) -> Deployment:
    """Asks for a model to be served. Answers at once; the worker does the rest."""
    wanted = _wanted(parts, request, new_id())
    made = _create(parts.store, wanted, idempotency_key)
    if made.request != wanted.request:
        raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request; take a new one")
    if made.phase is Phase.REQUESTED:
        parts.tasks.submit(made.id)
        log.info("deployment %s: %s requested as %s", made.id, made.model, made.alias)
    response.headers["Location"] = f"/v1/deployments/{made.id}"
    return made


@router.post("/preview", responses={200: {"content": {"application/json": {"example": examples.PREVIEW}}}})
def preview_launch(
    parts: PartsDep, request: Annotated[LaunchRequest, Body(openapi_examples=examples.LAUNCH)]
) -> Preview:
    """What a launch would submit, in full. Nothing is submitted, kept or left on the cluster."""
    wanted = named_among(_wanted(parts, request, PREVIEW_ID), parts.store.live())
    return Preview.model_validate(parts.tasks.ask(TaskName.PREVIEW, wanted.model_dump(mode="json")))


@router.get("")
def list_deployments(
    parts: PartsDep,
    live: Annotated[bool, Query(description="only those that have not ended")] = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Page:
    """Deployments, newest first; those that ended too unless `live`."""
    if live:
        found = parts.store.live()[::-1][offset : offset + limit + 1]
    else:
        found = parts.store.page(limit + 1, offset)
    following = offset + limit if len(found) > limit else None
    return Page(deployments=found[:limit], next_offset=following, cluster_outage=parts.store.outage.current())


@router.get("/{deployment:path}", responses={200: SHOWN[200]})
def get_deployment(deployment: DeploymentDep) -> Deployment:
    """One deployment, by its id or by a name that it answers to while it lives."""
    return deployment


@router.delete(
    "/{deployment:path}",
    status_code=202,
    responses={
        202: {**SHOWN[202], "description": "it will end"},
        200: {**SHOWN[200], "model": Deployment, "description": "it had ended already"},
    },
)
def end_deployment(parts: PartsDep, response: Response, deployment: DeploymentDep) -> Deployment:
    """Ends a deployment and gives its GPUs back. Repeating it does no harm."""
    now = datetime.now(UTC)
    asked = parts.store.update(deployment.id, lambda record: _wanted_no_more(record, now))
    if asked.is_live:
        parts.tasks.stop(asked.id)
        log.info("deployment %s: asked to end", asked.id)
    else:
        response.status_code = 200
    return asked


def _wanted(parts: Parts, request: LaunchRequest, identity: str) -> Deployment:
    """The record of what is asked for, once it is sure that the site has room for it in principle."""
    catalog = parts.catalog.current()
    if request.like is not None:
        earlier = _earlier(parts.store, request.like)
        again = like(earlier, request, catalog, identity, datetime.now(UTC))
        refuse_other_hardware(again, earlier, catalog, parts.site)
        return again
    wanted = requested(request, catalog, identity, datetime.now(UTC))
    refuse_misfit(wanted, catalog, parts.site)
    return wanted


def _earlier(store: Store, identity: str) -> Deployment:
    try:
        return store.get(identity)
    except UnknownDeploymentError as exc:
        raise UnknownDeploymentError(identity, NO_RECORD) from exc


def _create(store: Store, wanted: Deployment, key: str | None) -> Deployment:
    """The record made now, or earlier for the same key. With a name of its own a second one of a model may live."""
    try:
        return store.create(wanted, once=key)
    except NameTakenError as exc:
        if wanted.request.name is None or exc.name != wanted.model:
            raise
    return store.create(without_model_name(wanted), once=key)


def _wanted_no_more(record: Deployment, now: datetime) -> Deployment:
    return record.asked_to_stop(now) if record.is_live and record.stop_requested_at is None else record
