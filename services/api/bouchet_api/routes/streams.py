"""Server-sent events: moves of deployments, and the lines of a job's log. Both resume at Last-Event-ID.

Lines that begin with a colon are keep-alives. A message named `problem` says why nothing comes at the moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError, ClusterUnavailableError, RemoteFileMissingError
from bouchet_core.store import FIRST_EVENT
from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from bouchet_api.dependencies import DeploymentDep, Parts, PartsDep
from bouchet_api.log_lines import Line, whole_lines
from bouchet_api.notifier import wait_for_ring
from bouchet_api.problems import LogNotFoundError, problem_of

router = APIRouter(tags=["streams"], default_response_class=EventSourceResponse)

PIECE_BYTES = 64 * 1024
LOG_PAUSE_S = 1.0
PAUSE_AFTER_FAILURE_S = 3.0
EVENTS_AT_ONCE = 1000
EVENT_ID = r"^[0-9]{1,19}(-[0-9]{1,19})?$"
OFFSET = r"^[0-9]{1,15}$"

AfterHeader = Annotated[str | None, Header(alias="Last-Event-ID", pattern=EVENT_ID)]
AfterQuery = Annotated[str | None, Query(pattern=EVENT_ID, description="like Last-Event-ID; `0` for all that is kept")]


class LogLine(BaseModel):
    """A line of a log, without its newline."""

    line: str


def resume_point(parts: PartsDep, last_event_id: AfterHeader = None, after: AfterQuery = None) -> str:
    """Where the stream of all events begins: behind the named event, else now."""
    return last_event_id or after or parts.store.last_event()


@router.get("/v1/events")
async def all_events(parts: PartsDep, after: Annotated[str, Depends(resume_point)]) -> AsyncIterator[ServerSentEvent]:
    """Every move of every deployment from now on; never ends by itself.

    Messages named `tunnel` tell of the SSH connection: its state, and whether it waits for a person. They have no id:
    who resumes gets those from now on, and the state from GET /v1/tunnel.
    """
    async for message in _guarded(_events(parts, after, None)):
        yield message


@router.get("/v1/deployments/{deployment:path}/events")
async def events_of_one(
    parts: PartsDep, deployment: DeploymentDep, last_event_id: AfterHeader = None, after: AfterQuery = None
) -> AsyncIterator[ServerSentEvent]:
    """Every move of one deployment, from its first on; ends when the deployment has ended."""
    async for message in _guarded(_events(parts, last_event_id or after or FIRST_EVENT, deployment.id)):
        yield message


def log_start(
    parts: PartsDep,
    deployment: DeploymentDep,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", pattern=OFFSET)] = None,
    follow: Annotated[bool, Query(description="go on until the deployment ends")] = True,
    tail: Annotated[int, Query(ge=0, le=PIECE_BYTES, description="bytes of the past to begin with")] = 16 * 1024,
) -> int:
    """The offset to begin at. Raises what cannot be waited for, while an HTTP status can still say it."""
    if last_event_id is not None:
        return int(last_event_id)
    waits = follow and deployment.is_live
    if _log_path(deployment) is None and not waits:
        raise LogNotFoundError(f"deployment {deployment.id} has no log: {deployment.reason or deployment.phase}")
    try:
        return _tail_offset(parts, deployment, tail)
    except RemoteFileMissingError:
        if waits:
            return 0
        _refuse_tidied(deployment)
        raise


@router.get("/v1/deployments/{deployment:path}/logs")
async def log_of_one(
    parts: PartsDep, deployment: DeploymentDep, start: Annotated[int, Depends(log_start)], follow: bool = True
) -> AsyncIterator[ServerSentEvent]:
    """The job's log, line by line. A message's id is the offset behind its line, in bytes."""
    async for message in _guarded(_log(parts, deployment, start, follow)):
        yield message


def _refuse_tidied(deployment: Deployment) -> None:
    """RemoteFileMissingError with the reason, where the log has been removed by its age."""
    kept_until = deployment.job.kept_until if deployment.job else None
    if kept_until is not None and kept_until < datetime.now(UTC):
        words = f"the log of deployment {deployment.id} was kept until {kept_until:%Y-%m-%d} and is removed"
        raise RemoteFileMissingError(f"{words} (keep_jobs_days of the site file says how long)")


async def _events(parts: Parts, after: str, only: str | None) -> AsyncIterator[ServerSentEvent]:
    tunnel_after = await asyncio.to_thread(parts.store.tunnel.last_event)
    while True:
        ring = parts.bell.next_ring
        # asked before reading: an end that comes later than this also comes as an event later than this
        over = only is not None and not (await asyncio.to_thread(parts.store.get, only)).is_live
        events = await asyncio.to_thread(parts.store.events, after, 0.0, EVENTS_AT_ONCE)
        for event in events:
            after = event.id
            if only in (None, event.deployment):
                yield ServerSentEvent(id=event.id, data=event)
        told = await asyncio.to_thread(parts.store.tunnel.events, tunnel_after) if only is None else []
        for identity, change in told:
            tunnel_after = identity
            yield ServerSentEvent(event="tunnel", data=change)
        if not events and not told:
            if over:
                return
            await wait_for_ring(ring)


async def _log(parts: Parts, deployment: Deployment, start: int, follow: bool) -> AsyncIterator[ServerSentEvent]:
    path, position = _log_path(deployment), start
    while True:
        over = not follow or not deployment.is_live
        try:
            lines, size = await asyncio.to_thread(_read, parts, path, position, over)
        except ClusterUnavailableError as exc:
            if over:
                raise
            yield _problem_message(exc)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            continue
        for line in lines:
            position = line.end
            yield ServerSentEvent(id=str(line.end), data=LogLine(line=line.text))
        if size < position:
            position = 0  # requeued: Slurm began the file anew
        if not lines:
            if over:
                return
            await asyncio.sleep(LOG_PAUSE_S)
            deployment = await asyncio.to_thread(parts.store.get, deployment.id)
            if _log_path(deployment) != path:
                path, position = _log_path(deployment), 0


def _read(parts: Parts, path: str | None, position: int, over: bool) -> tuple[list[Line], int]:
    """The next whole lines and the size of the file; nothing while it is not there and may still come."""
    if path is None:
        return [], position
    try:
        piece = parts.gateway.get(path, position, PIECE_BYTES)
    except RemoteFileMissingError:
        if over:
            raise
        return [], position
    lines = whole_lines(piece.data, position, all_of_it=over and position + len(piece.data) >= piece.size)
    if not lines and len(piece.data) == PIECE_BYTES:
        lines = whole_lines(piece.data, position, all_of_it=True)
    return lines, piece.size


def _tail_offset(parts: Parts, deployment: Deployment, tail: int) -> int:
    """The offset of the first line that begins within the last `tail` bytes."""
    path = _log_path(deployment)
    if path is None:
        return 0
    size = parts.gateway.get(path, 0, 1).size
    if size <= tail:
        return 0
    begin = size - tail
    data = parts.gateway.get(path, begin, tail).data if tail else b""
    return begin + data.find(b"\n") + 1


def _log_path(deployment: Deployment) -> str | None:
    return deployment.job.log if deployment.job else None


async def _guarded(messages: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """The messages; an error in their midst becomes the last one."""
    try:
        async for message in messages:
            yield message
    except BouchetError as exc:
        yield _problem_message(exc)


def _problem_message(error: BouchetError) -> ServerSentEvent:
    return ServerSentEvent(event="problem", data=problem_of(error))
