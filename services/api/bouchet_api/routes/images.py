"""/v1/images: container images on the cluster, and the jobs that build and verify them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from bouchet_core.images import ImageJob, ImageList, ImageRequest, PinName, RemovedImage, find_pin
from bouchet_core.placement import check_arch
from bouchet_core.store import FIRST_EVENT
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from bouchet_api.batch_jobs import (
    batch_job_events,
    cancel_batch_job,
    cancel_responses,
    find_batch_job,
    json_example,
    start_batch_job,
    start_responses,
)
from bouchet_api.dependencies import StateDep
from bouchet_api.new_deployment import new_id
from bouchet_api.openapi import examples

from .streams import AfterHeader, AfterQuery

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/images", tags=["images"])

# the worker runs a script on the login node
WAIT_S = 45.0
COLLECTION = "/v1/images/jobs"


class ImageJobList(BaseModel):
    """Builds and verifications, newest first."""

    jobs: list[ImageJob]


def find_image_job(
    state: StateDep,
    job: Annotated[str, Path(description="id, or a pin: its live job, else its newest", max_length=100)],
) -> ImageJob:
    """Return the record that the path names."""
    state.store.live_view.note_awaited()
    return find_batch_job(state.store.images, job)


ImageJobDep = Annotated[ImageJob, Depends(find_image_job)]


@router.get("")
def list_images(state: StateDep) -> ImageList:
    """List the project's pins and the images on the cluster. Queries the cluster."""
    return ImageList.model_validate(state.tasks.query(TaskName.LIST_IMAGES, wait_s=WAIT_S))


@router.post("/jobs", status_code=202, responses=start_responses(examples.IMAGE_JOB))
def start_image_job(
    state: StateDep,
    response: Response,
    request: Annotated[ImageRequest, Body(openapi_examples=examples.IMAGE_REQUEST)],
) -> ImageJob:
    """Build or verify an image. Returns the live job of this pin if there is one."""
    if request.action == "build" or state.site.image(request.pin) is None:
        find_pin(state.pins_dir, request.pin)
    if request.action == "build":
        check_arch(request.pin, state.site)
    now = datetime.now(UTC)
    new = ImageJob(id=new_id(), reason="requested", created_at=now, updated_at=now, **request.model_dump())
    enqueue = partial(state.tasks.enqueue, TaskName.IMAGE)
    return start_batch_job(state.store.images, new, enqueue, response, COLLECTION)


@router.get("/jobs")
def list_image_jobs(state: StateDep, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> ImageJobList:
    """List builds and verifications, newest first, including ended ones."""
    return ImageJobList(jobs=state.store.images.page(limit))


@router.get("/jobs/{job}/events", response_class=EventSourceResponse)
async def stream_image_job_events(
    state: StateDep, job: ImageJobDep, last_event_id: AfterHeader = None, after: AfterQuery = None
) -> AsyncIterator[ServerSentEvent]:
    """Stream every change of one job from its first on, until the job has ended."""
    begin = last_event_id or after or FIRST_EVENT
    async for message in batch_job_events(state.store, state.store.images, job.id, begin):
        yield message


@router.get("/jobs/{job}", responses=json_example(examples.IMAGE_JOB))
def get_image_job(job: ImageJobDep) -> ImageJob:
    """Return one build or verification by its id or pin."""
    return job


@router.delete("/jobs/{job}", status_code=202, responses=cancel_responses(examples.IMAGE_JOB, ImageJob))
def cancel_image_job(state: StateDep, response: Response, job: ImageJobDep) -> ImageJob:
    """Cancel a build or verification. An existing image of this pin stays."""
    enqueue = partial(state.tasks.enqueue, TaskName.CANCEL_IMAGE)
    return cancel_batch_job(state.store.images, job, enqueue, response, COLLECTION)


@router.delete("/{pin}")
def remove_image(
    state: StateDep,
    pin: PinName,
    force: Annotated[bool, Query(description="remove it even while a live deployment uses it")] = False,
) -> RemovedImage:
    """Remove an image from the cluster."""
    removed = RemovedImage.model_validate(state.tasks.query(TaskName.REMOVE_IMAGE, pin, force, wait_s=WAIT_S))
    log.info("image %s: removed", pin)
    return removed
