"""/v1/images: what the cluster serves with: pins, images there, and the jobs that build and verify them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from bouchet_core.images import ImageJob, ImageRequest, Images, PinName, Removed, find_pin
from bouchet_core.store import FIRST_EVENT
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from bouchet_api import examples
from bouchet_api.chore_events import changes_of
from bouchet_api.launching import new_id
from bouchet_api.parts import PartsDep

from .streams import AfterHeader, AfterQuery

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/images", tags=["images"])

# the worker looks at the cluster
WAIT_S = 45.0
SHOWN: dict[int | str, dict[str, Any]] = {
    code: {"content": {"application/json": {"example": examples.IMAGE_JOB}}} for code in (200, 202)
}


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
def list_images(parts: PartsDep) -> Images:
    """Pins of the project and images on the cluster; the cluster is asked."""
    return Images.model_validate(parts.errands.ask("images", wait_s=WAIT_S))


@router.post(
    "/jobs",
    status_code=202,
    responses={202: {**SHOWN[202], "description": "on record; GET Location follows it"}},
)
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
    made = parts.store.images.create(wanted)
    if made.id == wanted.id:
        log.info("image %s: %s of %s asked for", made.id, made.action, made.pin)
    if made.slurm_id is None:
        parts.errands.image(made.id)
    response.headers["Location"] = f"/v1/images/jobs/{made.id}"
    return made


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


@router.get("/jobs/{job}", responses={200: SHOWN[200]})
def get_image_job(job: JobDep) -> ImageJob:
    """One build or verification, by its id, or by its pin while it is under way."""
    return job


@router.delete(
    "/jobs/{job}",
    status_code=202,
    responses={
        202: {**SHOWN[202], "description": "it will end"},
        200: {**SHOWN[200], "model": ImageJob, "description": "it had ended already"},
    },
)
def end_image_job(parts: PartsDep, response: Response, job: JobDep) -> ImageJob:
    """Ends it; the image that was there before stays."""
    asked = parts.store.images.update(job.id, lambda old: old.asked_to_stop(datetime.now(UTC)))
    if asked.is_live:
        parts.errands.stop_image(asked.id)
        log.info("image %s: asked to end", asked.id)
    else:
        response.status_code = 200
    return asked


@router.delete("/{pin}")
def remove_image(
    parts: PartsDep,
    pin: PinName,
    force: Annotated[bool, Query(description="although a live deployment serves from it")] = False,
) -> Removed:
    """Removes an image from the cluster."""
    removed = Removed.model_validate(parts.errands.ask("remove_image", pin, force, wait_s=WAIT_S))
    log.info("image %s: removed", pin)
    return removed
