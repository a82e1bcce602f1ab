"""Downloads of models to the cluster: ask for one, look at them, end one, follow one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from bouchet_core.downloads import Download, DownloadRequest
from bouchet_core.errors import UnknownDownloadError, UnknownModelError
from bouchet_core.store import FIRST_EVENT
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from bouchet_api import batch_jobs as batch_jobs
from bouchet_api.batch_job_events import changes_of
from bouchet_api.dependencies import PartsDep
from bouchet_api.model_status import asked_for, model_of
from bouchet_api.new_deployment import new_id
from bouchet_api.openapi import examples

from .streams import AfterHeader, AfterQuery

router = APIRouter(prefix="/v1", tags=["downloads"])

PLACE = "/v1/downloads"


class Downloads(BaseModel):
    """Downloads, newest first."""

    downloads: list[Download]


def download_of(
    parts: PartsDep, download: Annotated[str, Path(description="id, or the model of one under way", max_length=300)]
) -> Download:
    """The record that the path names; a name of the catalog stands for its model."""
    try:
        return parts.store.downloads.get(download)
    except UnknownDownloadError:
        try:
            return parts.store.downloads.get(model_of(download, parts.catalog.current()))
        except (UnknownModelError, UnknownDownloadError):
            pass
        raise


DownloadDep = Annotated[Download, Depends(download_of)]


@router.post("/models/download", status_code=202, responses=batch_jobs.asked_for(examples.DOWNLOAD))
def start_download(
    parts: PartsDep,
    response: Response,
    request: Annotated[DownloadRequest, Body(openapi_examples=examples.DOWNLOAD_REQUEST)],
) -> Download:
    """Fetches a model to the cluster. While one of that model is under way, that one is the answer."""
    wanted = asked_for(request, parts.catalog.current(), new_id(), datetime.now(UTC))
    return batch_jobs.begin(parts.store.downloads, wanted, parts.tasks.download, response, PLACE)


@router.get("/downloads")
def list_downloads(parts: PartsDep, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Downloads:
    """Downloads, newest first; ended ones too."""
    return Downloads(downloads=parts.store.downloads.page(limit))


@router.get("/downloads/{download:path}/events", response_class=EventSourceResponse)
async def events_of_download(
    parts: PartsDep, download: DownloadDep, last_event_id: AfterHeader = None, after: AfterQuery = None
) -> AsyncIterator[ServerSentEvent]:
    """Every change of one download, from its first on; ends when the download has."""
    async for message in changes_of(parts.store.downloads, download.id, last_event_id or after or FIRST_EVENT):
        yield message


@router.get("/downloads/{download:path}", responses=batch_jobs.shown(examples.DOWNLOAD))
def get_download(download: DownloadDep) -> Download:
    """One download, by its id, or by its model while it is under way."""
    return download


@router.delete(
    "/downloads/{download:path}", status_code=202, responses=batch_jobs.asked_to_end(examples.DOWNLOAD, Download)
)
def end_download(parts: PartsDep, response: Response, download: DownloadDep) -> Download:
    """Ends a download; what has come is kept, and the next one goes on with it."""
    return batch_jobs.end(parts.store.downloads, download, parts.tasks.stop_download, response, PLACE)
