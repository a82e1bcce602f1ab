"""/v1/downloads: start, list, follow and cancel downloads of models to the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from bouchet_core.batch_jobs import Download, DownloadRequest
from bouchet_core.errors import UnknownDownloadError, UnknownModelError
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
from bouchet_api.model_status import new_download, resolve_model
from bouchet_api.new_deployment import new_id
from bouchet_api.openapi import examples

from .streams import AfterHeader, AfterQuery

router = APIRouter(prefix="/v1", tags=["downloads"])

COLLECTION = "/v1/downloads"


class DownloadList(BaseModel):
    """Downloads, newest first."""

    downloads: list[Download]


def find_download(
    state: StateDep,
    download: Annotated[str, Path(description="id, or a model: its live download, else its newest", max_length=300)],
) -> Download:
    """Return the record that the path names; a catalog name means its model."""
    state.store.live_view.note_awaited()
    try:
        return find_batch_job(state.store.downloads, download)
    except UnknownDownloadError:
        try:
            return find_batch_job(state.store.downloads, resolve_model(download, state.catalog.current()))
        except (UnknownModelError, UnknownDownloadError):
            pass
        raise


DownloadDep = Annotated[Download, Depends(find_download)]


@router.post("/models/download", status_code=202, responses=start_responses(examples.DOWNLOAD))
def start_download(
    state: StateDep,
    response: Response,
    request: Annotated[DownloadRequest, Body(openapi_examples=examples.DOWNLOAD_REQUEST)],
) -> Download:
    """Download a model to the cluster. Returns the live download of the same revision if there is one."""
    new = new_download(request, state.catalog.current(), new_id(), datetime.now(UTC))
    enqueue = partial(state.tasks.enqueue, TaskName.DOWNLOAD)
    return start_batch_job(state.store.downloads, new, enqueue, response, COLLECTION)


@router.get("/downloads")
def list_downloads(state: StateDep, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> DownloadList:
    """List downloads, newest first, including ended ones."""
    return DownloadList(downloads=state.store.downloads.page(limit))


@router.get("/downloads/{download:path}/events", response_class=EventSourceResponse)
async def stream_download_events(
    state: StateDep, download: DownloadDep, last_event_id: AfterHeader = None, after: AfterQuery = None
) -> AsyncIterator[ServerSentEvent]:
    """Stream every change of one download from its first on, until the download has ended."""
    begin = last_event_id or after or FIRST_EVENT
    async for message in batch_job_events(state.store, state.store.downloads, download.id, begin):
        yield message


@router.get("/downloads/{download:path}", responses=json_example(examples.DOWNLOAD))
def get_download(download: DownloadDep) -> Download:
    """Return one download by its id or model."""
    return download


@router.delete("/downloads/{download:path}", status_code=202, responses=cancel_responses(examples.DOWNLOAD, Download))
def cancel_download(state: StateDep, response: Response, download: DownloadDep) -> Download:
    """Cancel a download. Its files stay, and the next download of the model resumes from them."""
    enqueue = partial(state.tasks.enqueue, TaskName.CANCEL_DOWNLOAD)
    return cancel_batch_job(state.store.downloads, download, enqueue, response, COLLECTION)
