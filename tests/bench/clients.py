"""Clients that cost little, so that what is measured is the proxy: raw HTTP/1.1 over kept connections."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .model import WANTED

SENT_AT = re.compile(rb'"(?:text|content)":\s*"(\d+\.\d{6}) "')
END = b"0\r\n\r\n"
TIMEOUT_S = 60.0


@dataclass
class Way:
    """Address and key of a server. `pid` is the process whose CPU time is counted, None without one in between.

    path: of the API that is asked; speaks_chats: whether it serves OpenAI's, too.
    """

    name: str
    url: str
    key: str
    model: str
    pid: int | None = None
    path: str = "/v1/messages"
    speaks_chats: bool = True


@dataclass
class Timing:
    """One answer: seconds to its first byte, and how late each of its events was, in seconds."""

    first_s: float = 0.0
    late_s: list[float] = field(default_factory=list)


class Line:
    """One kept connection."""

    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._way, self._reader, self._writer = way, reader, writer

    @classmethod
    async def open(cls, way: Way) -> Line:
        """Open a connection."""
        place = urlsplit(way.url)
        return cls(way, *await asyncio.open_connection(place.hostname, place.port, limit=1 << 22))

    async def ask(self, body: bytes) -> Timing:
        """Send the request and read its whole response, which has every event that it asked for."""
        head = (
            f"POST {self._way.path} HTTP/1.1\r\nhost: bench\r\nx-api-key: {self._way.key}\r\n"
            f"authorization: Bearer {self._way.key}\r\nanthropic-version: 2023-06-01\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        began = time.perf_counter()
        self._writer.write(head.encode() + body)
        async with asyncio.timeout(TIMEOUT_S):
            timing = await self._read_timing(began)
        found = WANTED.search(body)
        wanted = int(found[1]) if found else 1
        # an error, or a stream that is held open, would be measured as a quick answer
        # some proxies put the first or last events together
        assert len(timing.late_s) >= wanted - wanted // 100, (
            f"{self._way.name}: {len(timing.late_s)} of {wanted} events"
        )
        return timing

    async def _read_timing(self, began: float) -> Timing:
        status = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in status[:20], status + await self._reader.read(500)
        timing, tail, rest = Timing(), b"", b""
        while not tail.endswith(END):
            piece = await self._reader.read(1 << 16)
            assert piece, "the answer broke off"
            now = time.time()
            timing.first_s = timing.first_s or time.perf_counter() - began
            text, tail = rest + piece, (tail + piece)[-5:]
            found = list(SENT_AT.finditer(text))
            timing.late_s += [now - float(one[1]) for one in found]
            rest = text[found[-1].end() :] if found else text[-300:]
        return timing

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def one_by_one(way: Way, body: bytes, times: int) -> list[float]:
    """Measure seconds to the first byte, request after request on one connection."""
    line = await Line.open(way)
    try:
        return [(await line.ask(body)).first_s for _ in range(times)]
    finally:
        line.close()


async def requests_per_s(way: Way, body: bytes, clients: int, seconds: float) -> float:
    """Measure requests per second of clients that send without a pause."""
    lines = [await Line.open(way) for _ in range(clients)]
    answered, until = 0, time.perf_counter() + seconds

    async def keep_asking(line: Line) -> None:
        nonlocal answered
        while time.perf_counter() < until:
            await line.ask(body)
            answered += 1

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking(line) for line in lines))
    took_s = time.perf_counter() - began
    for line in lines:
        line.close()
    return answered / took_s


async def side_by_side(way: Way, body: bytes, streams: int) -> list[float]:
    """Measure the delay in seconds of each event of parallel streams."""
    lines = [await Line.open(way) for _ in range(streams)]
    timing = await asyncio.gather(*(line.ask(body) for line in lines))
    for line in lines:
        line.close()
    return [late for one in timing for late in one.late_s]
