"""A relay that cuts its connections after a given number of bytes, as a lost link does: `CuttingRelay(port, target)`.

A cut resets both ends; `half` leaves the server's end open and unread, as a link that freezes does: the server does not
notice. Afterwards the link is down for a while: new connections are held, as the gateway holds them.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

START_TIMEOUT_S = 10


@dataclass(eq=False)
class _Ends:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    silent: bool = False


class CuttingRelay:
    """Forwards 127.0.0.1:port to 127.0.0.1:target, in a thread. `cuts` counts what `cut_after` and `cut` did.

    `passed` is the number of bytes that came from the server. A context manager.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting relay")
        self._ends: set[_Ends] = set()
        self._frozen: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit: int | None = None
        self._half, self._down_s = False, 0.0
        self._up = asyncio.Event()
        self.cuts = self.passed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.set()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", self._port))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_after(self, count: int, *, half: bool = False, down_s: float = 0.0) -> None:
        """Cut everything when the server has sent that many more bytes."""

        async def arm() -> None:
            self._limit, self._half, self._down_s = self.passed + count, half, down_s

        self._run(arm())

    def cut(self, *, half: bool = False, down: bool = False) -> None:
        """Cut everything now. down: until `restore`, new connections are held."""

        async def cut() -> None:
            self._half, self._down_s = half, 0.0
            self._cut()
            if down:
                self._up.clear()

        self._run(cut())

    def silence(self) -> None:
        """Let nothing more through, and close nothing: a lost node does not say so. New connections are held."""

        async def silence() -> None:
            self._up.clear()
            for ends in self._ends:
                ends.silent = True

        self._run(silence())

    def restore(self) -> None:
        """Let new connections through again."""
        self._loop.call_soon_threadsafe(self._up.set)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in (*self._frozen, *(end for ends in self._ends for end in (ends.client, ends.server))):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = _Ends(writer)
        self._ends.add(ends)
        try:
            await self._up.wait()
            from_server, ends.server = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._up_stream(reader, ends), self._down_stream(from_server, ends))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            if not writer.transport.is_closing():
                writer.close()
            if ends in self._ends:
                self._ends.discard(ends)
                _reset(ends.server)

    async def _up_stream(self, reader: asyncio.StreamReader, ends: _Ends) -> None:
        assert ends.server is not None
        try:
            while piece := await reader.read(65536):
                ends.server.write(piece)
                await ends.server.drain()
        finally:
            # a client that hangs up is passed on; a frozen link is not
            if ends in self._ends:
                _reset(ends.server)

    async def _down_stream(self, reader: asyncio.StreamReader, ends: _Ends) -> None:
        while piece := await reader.read(65536):
            if ends.silent:
                continue
            if self._limit is not None and self.passed + len(piece) >= self._limit:
                ends.client.write(piece[: self._limit - self.passed])
                self.passed = self._limit
                await asyncio.sleep(0)
                self._cut()
                return
            self.passed += len(piece)
            ends.client.write(piece)
            await ends.client.drain()
        if not ends.silent:
            ends.client.close()

    def _cut(self) -> None:
        self._limit = None
        self.cuts += 1
        for ends in list(self._ends):
            self._ends.discard(ends)
            # what was written before arrives: a reset would drop it
            ends.client.close()
            if not self._half:
                _reset(ends.server)
            elif ends.server is not None:
                self._frozen.append(ends.server)
        if self._down_s:
            self._up.clear()
            self._loop.call_later(self._down_s, self._up.set)


def _reset(writer: asyncio.StreamWriter | None) -> None:
    if writer is None:
        return
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
