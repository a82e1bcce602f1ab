"""/v1/images: what the cluster serves with: pins, images there, and the jobs that build and verify them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from bouchet_core.images import ImageJob, ImageList, ImageRequest, PinName, RemovedImage, find_pin
from bouchet_core.store import FIRST_EVENT
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from bouchet_api import batch_jobs as batch_jobs
from bouchet_api.batch_job_events import changes_of
from bouchet_api.dependencies import PartsDep
from bouchet_api.new_deployment import new_id
from bouchet_api.openapi import examples

from .streams import AfterHeader, AfterQuery

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/images", tags=["images"])

# the worker looks at the cluster
WAIT_S = 45.0
PLACE = "/v1/images/jobs"


class ImageJobs(BaseModel):
    """Builds and verifications, newest first."""

    jobs: list[ImageJob]


def job_of(
    parts: PartsDep, job: Annotated[str, Path(description="id, or the pin of one under way", max_length=100)]
) -> ImageJob:
    """The record that the path names."""
    return parts.store.images.get(job)


JobDep = Annotated[ImageJob, Depends(job_of)]


@router.get("")
def list_images(parts: PartsDep) -> ImageList:
    """Pins of the project and images on the cluster; the cluster is asked."""
    return ImageList.model_validate(parts.tasks.ask(TaskName.LIST_IMAGES, wait_s=WAIT_S))


@router.post("/jobs", status_code=202, responses=batch_jobs.asked_for(examples.IMAGE_JOB))
def start_image_job(
    parts: PartsDep,
    response: Response,
    request: Annotated[ImageRequest, Body(openapi_examples=examples.IMAGE_REQUEST)],
) -> ImageJob:
    """Builds or verifies an image. While something of that pin is under way, that is the answer."""
    if request.action == "build":
        find_pin(parts.pins_dir, request.pin)
    now = datetime.now(UTC)
    wanted = ImageJob(id=new_id(), reason="asked for", created_at=now, updated_at=now, **request.model_dump())
    return batch_jobs.begin(parts.store.images, wanted, parts.tasks.image, response, PLACE)


@router.get("/jobs")
def list_image_jobs(parts: PartsDep, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> ImageJobs:
    """Builds and verifications, newest first; ended ones too."""
    return ImageJobs(jobs=parts.store.images.page(limit))


@router.get("/jobs/{job}/events", response_class=EventSourceResponse)
async def events_of_image_job(
    parts: PartsDep, job: JobDep, last_event_id: AfterHeader = None, after: AfterQuery = None
) -> AsyncIterator[ServerSentEvent]:
    """Every change of one, from its first on; ends when the job has."""
    async for message in changes_of(parts.store.images, job.id, last_event_id or after or FIRST_EVENT):
        yield message


@router.get("/jobs/{job}", responses=batch_jobs.shown(examples.IMAGE_JOB))
def get_image_job(job: JobDep) -> ImageJob:
    """One build or verification, by its id, or by its pin while it is under way."""
    return job


@router.delete("/jobs/{job}", status_code=202, responses=batch_jobs.asked_to_end(examples.IMAGE_JOB, ImageJob))
def end_image_job(parts: PartsDep, response: Response, job: JobDep) -> ImageJob:
    """Ends it; the image that was there before stays."""
    return batch_jobs.end(parts.store.images, job, parts.tasks.stop_image, response, PLACE)


@router.delete("/{pin}")
def remove_image(
    parts: PartsDep,
    pin: PinName,
    force: Annotated[bool, Query(description="although a live deployment serves from it")] = False,
) -> RemovedImage:
    """Removes an image from the cluster."""
    removed = RemovedImage.model_validate(parts.tasks.ask(TaskName.REMOVE_IMAGE, pin, force, wait_s=WAIT_S))
    log.info("image %s: removed", pin)
    return removed
