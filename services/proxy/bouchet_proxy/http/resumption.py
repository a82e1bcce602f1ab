"""Answers that survive their connections: a lost one is asked for again, from its last byte on.

The guard in the job keeps each answer under the id that its request has (remote/job/resumable.py). So a request may be
sent a second time without being served twice, the rest of an answer comes over another connection, and a client that
has left is reported by its request's id, as a lost connection no longer says so.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NoReturn

from .connection import ConnectError, Connection, TransportError, post_head, request_head
from .pool import ConnectionPool, JobServer, NothingListensError, WrongServerError

log = logging.getLogger(__name__)

STREAM_HEADER, ATTEMPT_HEADER = "x-bouchet-stream", "x-bouchet-attempt"
RETRY_S = 0.2
# how often a connection that is being made looks whether the job still runs
CHECK_S = 0.5
# a server that was there and is not listening for so long has ended
REFUSED_S = 3.0
# a job that has ended sends nothing more: when its node is lost, no packet says so
SILENT_S, WATCH_S = 5.0, 2.0
ABORT_TIMEOUT_S = 10.0
# for the abort of what is under way when the proxy stops
CLOSE_S = 2.0
_KNOWN, _RESUMED, _GONE = b"busy", b"resumed", b"gone"


class AnswerLostError(TransportError):
    """The rest of an answer cannot be had: its server has ended, or does not have it any more."""


@dataclass(frozen=True)
class Patience:
    """How long a lost connection is worth waiting for. hold_s: at most; is_current: whether the job may still run.

    holding: entered while an answer waits for its connection. connect_s: for the first connection.
    """

    hold_s: Callable[[], float]
    is_current: Callable[[], bool]
    holding: Callable[[], AbstractContextManager[None]]
    connect_s: float = 0.0


class Exchange:
    """One request and its answer, over as many connections as it takes. position: of the next byte of the body.

    The caller reads `connection`, and counts what it has read. waited: the connection did not come back in time.
    """

    def __init__(
        self, pool: ConnectionPool, server: JobServer, path: str, body: bytes, timeout_s: float, patience: Patience
    ) -> None:
        self._pool, self.server, self._body, self._timeout_s = pool, server, body, timeout_s
        self.patience = patience
        self.id = secrets.token_hex(16) if server.resumes else ""
        more = (f"{STREAM_HEADER}: {self.id}",) if server.resumes else ()
        self._head = post_head(path, pool.host_of(server), server.key, len(body), *more)
        self.connection: Connection | None = None
        self.position = 0
        self.sent = self.lost = self.waited = False
        self._attempt, self._deadline = 0, 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def needs_abort(self) -> bool:
        """Whether the server may work without a reader."""
        complete = self.connection is not None and self.connection.complete
        return self.server.resumes and self.sent and not complete and not self.lost

    async def open(self) -> Connection:
        """Send the request; return the connection on which its answer has begun. Raises TransportError."""
        self.connection = self._pool.take(self.server) or await self._first_connection()
        self._watch_job()
        while True:
            self.sent = True
            try:
                await self.connection.send(self._head, self._body, self._timeout_s)
            except ConnectError as exc:
                if not self.server.resumes and not exc.reused:
                    raise
                # the server may have closed a pooled connection just now
                await self._reconnect(exc)
                continue
            if self.connection.headers.get(STREAM_HEADER.encode()) == _KNOWN:
                return await self._ask_on(ConnectError("the request was received before"))
            self._deadline = 0.0
            return self.connection

    async def _first_connection(self) -> Connection:
        """Connect. What takes longer than a link that is up counts as waiting for it."""
        connecting = asyncio.get_running_loop().create_task(self._connect_again())
        try:
            await asyncio.wait((connecting,), timeout=CHECK_S)
            with nullcontext() if connecting.done() else self.patience.holding():
                return await connecting
        finally:
            connecting.cancel()

    async def _connect_again(self) -> Connection:
        """Connect; again where an attempt breaks off, as the gateway holds the next one until the link is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.patience.connect_s if self.server.resumes else 0.0)
        while True:
            try:
                return await self._pool.connect(self.server)
            except TransportError as exc:
                if isinstance(exc, WrongServerError) or loop.time() >= deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def resume(self, cause: TransportError) -> Connection:
        """Return another connection, on which the answer goes on at `position`. Raises TransportError."""
        if not self.server.resumes:
            raise cause
        log.info("slot=%d job=%s: a connection was lost in an answer, after %d bytes", *self._where(), self.position)
        return await self._ask_on(cause)

    def _watch_job(self) -> None:
        """Give up a silent connection to a job that has ended; look again after WATCH_S."""
        connection, is_current = self.connection, self.patience.is_current()
        if connection is not None and not connection.closed and not is_current and connection.silent_s >= SILENT_S:
            connection.lose("its job has ended")
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._watch_job)

    def release(self) -> None:
        """Give the connection back; it is closed where the answer is not complete."""
        if self._watch is not None:
            self._watch.cancel()
        if self.connection is not None:
            self._pool.release(self.server, self.connection)

    async def abort(self) -> None:
        """Have the server end the request, as soon as it can be reached. Raises TransportError where it cannot be."""
        head = self._request_head("DELETE", f"/bouchet/streams/{self.id}")
        self.connection, self._deadline = self._pool.take(self.server), 0.0
        self.patience = replace(self.patience, holding=nullcontext)
        while True:
            if self.connection is None or self.connection.closed:
                await self._reconnect(ConnectError("the server could not be reached"))
            assert self.connection is not None
            try:
                await self.connection.send(head, b"", ABORT_TIMEOUT_S)
                while await self.connection.read():
                    pass
                return
            except ConnectError:
                self.connection.close()
            finally:
                self.release()

    async def _ask_on(self, cause: TransportError) -> Connection:
        while True:
            await self._reconnect(cause)
            assert self.connection is not None
            self._attempt += 1
            path = f"/bouchet/streams/{self.id}?from={self.position}"
            head = self._request_head("GET", path, f"{ATTEMPT_HEADER}: {self._attempt}")
            try:
                await self.connection.send(head, b"", self._timeout_s)
            except ConnectError:
                continue
            found = self.connection.headers.get(STREAM_HEADER.encode())
            if found != _RESUMED:
                # the server may go on with an answer of which it has forgotten a part
                self.lost = found != _GONE
                raise AnswerLostError(f"the server has no such answer: {(found or b'').decode('latin-1')}") from cause
            self._deadline = 0.0
            return self.connection

    async def _reconnect(self, cause: TransportError) -> None:
        """Connect again; wait for the link where that helps. Raises AnswerLostError, or `cause` when the time is up.

        A server that accepts connections and closes each of them gets no more time than one that cannot be reached.
        """
        if self.connection is not None:
            self.connection.close()
        loop, refused_since = asyncio.get_running_loop(), 0.0
        if self._deadline:
            if loop.time() >= self._deadline:
                self.waited = self.server.resumes
                raise cause
            await asyncio.sleep(RETRY_S)
        self._deadline = self._deadline or loop.time() + (self.patience.hold_s() if self.server.resumes else 0.0)
        with self.patience.holding():
            while True:
                is_late = loop.time() >= self._deadline
                try:
                    self.connection = await self._connect(cause)
                    return
                except AnswerLostError:
                    raise
                except TransportError as exc:
                    now, refused = loop.time(), isinstance(exc, NothingListensError)
                refused_since = (refused_since or now) if refused else 0.0
                if refused and now - refused_since >= REFUSED_S:
                    self._give_up(cause)
                if is_late:
                    self.waited = self.server.resumes
                    raise cause
                await asyncio.sleep(RETRY_S)

    async def _connect(self, cause: TransportError) -> Connection:
        """Open a connection. The gateway holds it while the link is down; meanwhile the job may end."""
        connecting = asyncio.get_running_loop().create_task(self._pool.connect(self.server))
        try:
            while True:
                if not self.patience.is_current():
                    self._give_up(cause)
                await asyncio.wait((connecting,), timeout=CHECK_S)
                if connecting.done():
                    return connecting.result()
        finally:
            connecting.cancel()

    def _give_up(self, cause: TransportError) -> NoReturn:
        self.lost = True
        raise AnswerLostError("the server has ended") from cause

    def _request_head(self, method: str, path: str, *more: str) -> bytes:
        return request_head(method, path, self._pool.host_of(self.server), self.server.key, *more)

    def _where(self) -> tuple[int, str]:
        return self.server.slot, self.server.job_name


class Aborts:
    """The reports of clients that left, each until the job's server has it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, exchange: Exchange) -> None:
        """Report one, in the background."""
        task = asyncio.get_running_loop().create_task(self._run(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give those under way a moment, and end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for task in self._tasks:
            task.cancel()

    async def _run(self, exchange: Exchange) -> None:
        try:
            await exchange.abort()
        except TransportError as exc:
            log.info("slot=%d job=%s: a request could not be aborted: %s", *exchange._where(), exc)
