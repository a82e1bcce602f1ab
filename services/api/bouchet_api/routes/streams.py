"""Server-sent events: changes of deployments, and the lines of a job's log. Both resume at Last-Event-ID.

Lines that begin with a colon are keep-alives. An event named `problem` contains the error that interrupts the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from bouchet_core.deployments import Deployment, Phase
from bouchet_core.errors import BouchetError, ClusterUnavailableError, RemoteFileMissingError
from bouchet_core.store import FIRST_EVENT
from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from bouchet_api.dependencies import AppState, DeploymentDep, StateDep
from bouchet_api.notifier import wait_for_change
from bouchet_api.problems import LogNotFoundError, problem_of

router = APIRouter(tags=["streams"], default_response_class=EventSourceResponse)

CHUNK_BYTES = 64 * 1024
LOG_INTERVAL_S = 1.0
PAUSE_AFTER_FAILURE_S = 3.0
MAX_EVENTS = 1000
EVENT_ID = r"^[0-9]{1,19}(-[0-9]{1,19})?$"
OFFSET = r"^[0-9]{1,15}$"

AfterHeader = Annotated[str | None, Header(alias="Last-Event-ID", pattern=EVENT_ID)]
AfterQuery = Annotated[str | None, Query(pattern=EVENT_ID, description="like Last-Event-ID; `0` for all kept events")]


class LogLineEvent(BaseModel):
    """A line of a log, without its newline."""

    line: str


@dataclass(frozen=True)
class LogLine:
    """A line of text, and the offset in bytes where the next line begins."""

    text: str
    end: int


def split_lines(data: bytes, start: int, *, complete: bool = False) -> list[LogLine]:
    """Return the lines of a chunk that begins at offset `start`.

    Text after the last newline is still being written and left out, unless `complete`.
    """
    lines: list[LogLine] = []
    position = 0
    while (newline := data.find(b"\n", position)) >= 0:
        lines.append(LogLine(_decode_line(data[position:newline]), start + newline + 1))
        position = newline + 1
    if complete and position < len(data):
        lines.append(LogLine(_decode_line(data[position:]), start + len(data)))
    return lines


def get_start_event(state: StateDep, last_event_id: AfterHeader = None, after: AfterQuery = None) -> str:
    """Return the event id after which the stream of all events begins: the named one, else the newest."""
    return last_event_id or after or state.store.last_event()


@router.get("/v1/events")
async def stream_all_events(
    state: StateDep, after: Annotated[str, Depends(get_start_event)]
) -> AsyncIterator[ServerSentEvent]:
    """Stream every change of every deployment from now on, without end.

    Events named `tunnel` are changes of the SSH connection: its state, and whether it needs a person. They have no id:
    a resumed stream has those from now on; GET /v1/tunnel has the present state.
    """
    async for message in _with_problems(_events(state, after, None)):
        yield message


@router.get("/v1/deployments/{deployment:path}/events")
async def stream_deployment_events(
    state: StateDep, deployment: DeploymentDep, last_event_id: AfterHeader = None, after: AfterQuery = None
) -> AsyncIterator[ServerSentEvent]:
    """Stream every change of one deployment from its first on, until the deployment has ended."""
    async for message in _with_problems(_events(state, last_event_id or after or FIRST_EVENT, deployment.id)):
        yield message


def get_log_start(
    state: StateDep,
    deployment: DeploymentDep,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", pattern=OFFSET)] = None,
    follow: Annotated[bool, Query(description="continue until the deployment ends")] = True,
    after: Annotated[str | None, Query(pattern=OFFSET, description="like Last-Event-ID")] = None,
    tail: Annotated[int, Query(ge=0, le=CHUNK_BYTES, description="bytes before the end to begin at")] = 16 * 1024,
) -> int:
    """Return the offset to begin at. Raises permanent errors here, while the HTTP status can still report them."""
    offset = last_event_id or after
    if offset is not None:
        return int(offset)
    waits = follow and deployment.is_live
    if deployment.attached is not None:
        raise LogNotFoundError(f"{deployment.alias} is attached, not ours: its log is where its owner keeps it")
    if _log_path(deployment) is None and not waits:
        raise LogNotFoundError(f"deployment {deployment.id} has no log: {deployment.reason or deployment.phase}")
    try:
        return _tail_offset(state, deployment, tail)
    except RemoteFileMissingError:
        if waits:
            return 0
        _check_not_removed(deployment)
        _check_has_started(deployment)
        raise


@router.get("/v1/deployments/{deployment:path}/logs")
async def stream_log(
    state: StateDep, deployment: DeploymentDep, start: Annotated[int, Depends(get_log_start)], follow: bool = True
) -> AsyncIterator[ServerSentEvent]:
    """Stream the job's log line by line. An event's id is the offset in bytes where the next line begins."""
    async for message in _with_problems(_log_events(state, deployment, start, follow)):
        yield message


def _check_not_removed(deployment: Deployment) -> None:
    """Raise RemoteFileMissingError with the reason when the cleanup has removed the log."""
    kept_until = deployment.job.kept_until if deployment.job else None
    if kept_until is not None and kept_until < datetime.now(UTC):
        raise RemoteFileMissingError(
            f"the log of deployment {deployment.id} was kept until {kept_until:%Y-%m-%d} and has been removed "
            "(`keep_jobs_days` in the site file)"
        )


def _check_has_started(deployment: Deployment) -> None:
    """Raise LogNotFoundError with the reason when the job has not run, so that there is nothing to read."""
    if deployment.job is not None and Phase.STARTING in deployment.job.since:
        return
    when = "is still waiting and has" if deployment.is_live else "ended before its job started and has"
    reason = f": {deployment.reason}" if deployment.reason else ""
    raise LogNotFoundError(f"{deployment.alias} {when} written no log{reason}")


async def _events(state: AppState, after: str, only: str | None) -> AsyncIterator[ServerSentEvent]:
    tunnel_after = await asyncio.to_thread(state.store.tunnel.last_event)
    while True:
        change = state.notifier.next_change
        # read before the events: an end that is recorded after this read also has a later event
        over = only is not None and not (await asyncio.to_thread(state.store.get, only)).is_live
        if only is not None:
            await asyncio.to_thread(state.store.live_view.note_awaited)
        events = await asyncio.to_thread(state.store.events, after, 0.0, MAX_EVENTS)
        for event in events:
            after = event.id
            if only in (None, event.deployment):
                yield ServerSentEvent(id=event.id, data=event)
        tunnel_events = await asyncio.to_thread(state.store.tunnel.events, tunnel_after) if only is None else []
        for identity, tunnel_event in tunnel_events:
            tunnel_after = identity
            yield ServerSentEvent(event="tunnel", data=tunnel_event)
        if not events and not tunnel_events:
            if over:
                return
            await wait_for_change(change)


async def _log_events(
    state: AppState, deployment: Deployment, start: int, follow: bool
) -> AsyncIterator[ServerSentEvent]:
    path, position = _log_path(deployment), start
    while True:
        over = not follow or not deployment.is_live
        try:
            lines, size = await asyncio.to_thread(_read_lines, state, path, position, over)
        except ClusterUnavailableError as exc:
            if over:
                raise
            yield _problem_event(exc)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            continue
        for line in lines:
            position = line.end
            yield ServerSentEvent(id=str(line.end), data=LogLineEvent(line=line.text))
        if size < position:
            position = 0  # Slurm truncates the log of a requeued job
        if not lines:
            if over:
                return
            await asyncio.sleep(LOG_INTERVAL_S)
            deployment = await asyncio.to_thread(state.store.get, deployment.id)
            if _log_path(deployment) != path:
                path, position = _log_path(deployment), 0


def _read_lines(state: AppState, path: str | None, position: int, over: bool) -> tuple[list[LogLine], int]:
    """Return the next whole lines and the file's size; no lines while the file may still appear."""
    if path is None:
        return [], position
    try:
        chunk = state.gateway.get(path, position, CHUNK_BYTES)
    except RemoteFileMissingError:
        if over:
            raise
        return [], position
    lines = split_lines(chunk.data, position, complete=over and position + len(chunk.data) >= chunk.size)
    if not lines and len(chunk.data) == CHUNK_BYTES:
        lines = split_lines(chunk.data, position, complete=True)
    return lines, chunk.size


def _tail_offset(state: AppState, deployment: Deployment, tail: int) -> int:
    """Return the offset of the first line that begins in the last `tail` bytes."""
    path = _log_path(deployment)
    if path is None:
        return 0
    size = state.gateway.get(path, 0, 1).size
    if size <= tail:
        return 0
    begin = size - tail
    data = state.gateway.get(path, begin, tail).data if tail else b""
    return begin + data.find(b"\n") + 1


def _log_path(deployment: Deployment) -> str | None:
    return deployment.job.log if deployment.job else None


def _decode_line(line: bytes) -> str:
    """Return what a terminal would show: text after a carriage return overwrites the text before it."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]


async def _with_problems(messages: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """Yield the messages; an error becomes a `problem` event, the last one."""
    try:
        async for message in messages:
            yield message
    except BouchetError as exc:
        yield _problem_event(exc)


def _problem_event(error: BouchetError) -> ServerSentEvent:
    return ServerSentEvent(event="problem", data=problem_of(error))
