"""What downloads and image builds share: start and cancel a batch job, stream its changes, describe its responses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.errors import BouchetError, OtherWorkInProgressError
from bouchet_core.store import BatchJobStore, Store
from fastapi import Response
from fastapi.sse import ServerSentEvent

from .problems import problem_of

log = logging.getLogger(__name__)

# pause between two reads of a batch job's change stream
EVENTS_INTERVAL_S = 0.5
# records that are searched for an ended batch job
NEWEST = 200

AnyBatchJob = TypeVar("AnyBatchJob", bound=BatchJob)
OpenApiResponses = dict[int | str, dict[str, Any]]


def start_batch_job(
    records: BatchJobStore[AnyBatchJob],
    new: AnyBatchJob,
    enqueue: Callable[[str], None],
    response: Response,
    collection: str,
) -> AnyBatchJob:
    """Return the new record, or the one of a batch job that is under way for the same subject.

    `enqueue` gets the record's id while no Slurm job exists; `collection` is the URL of all such records. Raises
    OtherWorkInProgressError where the one under way does something else, such as another revision.
    """
    record = records.create(new)
    if difference := record.difference(new):
        raise OtherWorkInProgressError(record.subject, f"{records.kind} {record.id}", difference)
    if record.id == new.id:
        log.info("%s/%s: requested for %s", collection, record.id, record.subject)
    if record.slurm_id is None:
        enqueue(record.id)
    response.headers["Location"] = f"{collection}/{record.id}"
    return record


def find_batch_job(records: BatchJobStore[AnyBatchJob], name: str) -> AnyBatchJob:
    """Return the batch job with that id, the live one of that subject, or its newest that has ended."""
    try:
        return records.get(name)
    except BouchetError:
        newest = next((record for record in records.page(NEWEST) if record.subject == name), None)
        if newest is None:
            raise
        return newest


def cancel_batch_job(
    records: BatchJobStore[AnyBatchJob],
    record: AnyBatchJob,
    enqueue: Callable[[str], None],
    response: Response,
    collection: str,
) -> AnyBatchJob:
    """Record that the batch job shall end and enqueue its task; the status is 200 when it has ended already."""
    updated = records.update(record.id, lambda old: old.asked_to_stop(datetime.now(UTC)))
    if updated.is_live:
        enqueue(updated.id)
        log.info("%s/%s: cancel requested", collection, updated.id)
    else:
        response.status_code = 200
    return updated


async def batch_job_events(
    store: Store, records: BatchJobStore[Any], identity: str, after: str
) -> AsyncIterator[ServerSentEvent]:
    """Yield every change after that event id until the batch job has ended; an error becomes a `problem` event."""
    try:
        async for message in _changes(store, records, identity, after):
            yield message
    except BouchetError as exc:
        yield ServerSentEvent(event="problem", data=problem_of(exc))


async def _changes(
    store: Store, records: BatchJobStore[Any], identity: str, after: str
) -> AsyncIterator[ServerSentEvent]:
    while True:
        await asyncio.to_thread(store.live_view.note_awaited)
        # read before the events: an end that is recorded after this read also has a later event
        over = not (await asyncio.to_thread(records.get, identity)).is_live
        events = await asyncio.to_thread(records.events, after, identity)
        for event in events:
            after = event.id
            yield ServerSentEvent(id=event.id, data=event.batch_job)
        if not events:
            if over:
                return
            await asyncio.sleep(EVENTS_INTERVAL_S)


def json_example(example: Mapping[str, Any], status: int = 200, description: str = "") -> OpenApiResponses:
    """Return the OpenAPI response of this status with this example."""
    described = {"description": description} if description else {}
    return {status: {"content": {"application/json": {"example": example}}, **described}}


def start_responses(example: Mapping[str, Any]) -> OpenApiResponses:
    """Return the OpenAPI responses of a request that starts a batch job."""
    return json_example(example, 202, "recorded; GET Location follows it")


def cancel_responses(example: Mapping[str, Any], model: type[BatchJob]) -> OpenApiResponses:
    """Return the OpenAPI responses of a request that cancels a batch job."""
    ended = json_example(example, 200, "it had ended already")
    return {**json_example(example, 202, "cancel requested"), 200: {**ended[200], "model": model}}
