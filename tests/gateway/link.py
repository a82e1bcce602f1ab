"""A link between gateway and login node that may be slow, lose bytes, fall silent in one direction or both, freeze."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass
class Way:
    """One direction. delay_s: for every byte; lose: how many of the next bytes vanish; silent: all of them do."""

    delay_s: float = 0.0
    lose: int = 0
    silent: bool = False

    def left_of(self, data: bytes) -> bytes:
        """What comes through of these bytes."""
        if self.silent:
            return b""
        lost, self.lose = min(self.lose, len(data)), max(0, self.lose - len(data))
        return data[lost:]


class Link:
    """The link. up: from the gateway; down: to it."""

    def __init__(self, target: int) -> None:
        self.up, self.down, self.port = Way(), Way(), 0
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def silence(self, *, up: bool = True, down: bool = True) -> None:
        """Nothing comes through any more; connections stay, and new ones are accepted."""
        self.up.silent, self.down.silent = up, down

    def restore(self) -> None:
        """What is said from now on comes through."""
        self.silence(up=False, down=False)

    def freeze(self) -> None:
        """Nothing comes through until `thaw`, and then everything, as TCP does when a cable was out."""
        self._flows.clear()

    def thaw(self) -> None:
        """Ends a freeze."""
        self._flows.set()

    def cut(self) -> None:
        """Every connection ends at once."""
        for task in self._tasks:
            task.cancel()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._start(reader, far_writer, self.up)
        self._start(far_reader, writer, self.down)

    def _start(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        for task in (
            asyncio.create_task(_take(source, queue, way)),
            asyncio.create_task(_give(queue, sink, self._flows)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _take(source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], way: Way) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            if left := way.left_of(data):
                queue.put_nowait((loop.time() + way.delay_s, left))
    queue.put_nowait((loop.time() + way.delay_s, b""))


async def _give(queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, flows: asyncio.Event) -> None:
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
    """A link that leads to that port of this machine."""
    link = Link(target)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.close()
