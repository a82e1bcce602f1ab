"""A network link between gateway and login node that may be slow, lose bytes, or fall silent in one direction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass
class Direction:
    """One direction of a link."""

    # of every byte
    delay_s: float = 0.0
    # how many of the next bytes are dropped
    lose_bytes: int = 0
    # all bytes are dropped
    silent: bool = False

    def passed(self, data: bytes) -> bytes:
        """Return what is not lost of these bytes."""
        if self.silent:
            return b""
        lost, self.lose_bytes = min(self.lose_bytes, len(data)), max(0, self.lose_bytes - len(data))
        return data[lost:]


class Link:
    """A link to a port of this machine. up: from the gateway; down: to it."""

    def __init__(self, target: int) -> None:
        self.up, self.down, self.port = Direction(), Direction(), 0
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def silence(self, *, up: bool = True, down: bool = True) -> None:
        """Drop all bytes; connections stay, and new ones are accepted."""
        self.up.silent, self.down.silent = up, down

    def restore(self) -> None:
        """Pass bytes again."""
        self.silence(up=False, down=False)

    def freeze(self) -> None:
        """Hold all bytes until `thaw`, as TCP does while a cable is unplugged."""
        self._flows.clear()

    def thaw(self) -> None:
        """Pass the held bytes, and new ones."""
        self._flows.set()

    def cut(self) -> None:
        """Break every connection."""
        for task in self._tasks:
            task.cancel()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._start(reader, far_writer, self.up)
        self._start(far_reader, writer, self.down)

    def _start(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        for task in (
            asyncio.create_task(_read(source, queue, direction)),
            asyncio.create_task(_write(queue, sink, self._flows)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read(source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], direction: Direction) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            if passed := direction.passed(data):
                queue.put_nowait((loop.time() + direction.delay_s, passed))
    queue.put_nowait((loop.time() + direction.delay_s, b""))


async def _write(queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await flows.wait()
            if not data:
                break
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


@contextlib.asynccontextmanager
async def link_to(target: int) -> AsyncIterator[Link]:
    """Open a link to that port of this machine."""
    link = Link(target)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.close()
