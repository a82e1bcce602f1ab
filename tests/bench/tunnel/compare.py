"""The gateway against OpenSSH's `ssh -L`: same sshd, same server behind it, same client, turn by turn.

Both are processes on this machine; their CPU is what the kernel charged them.
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure

from . import upstream
from .ends import BODY, Way, both_ways

ROUNDS, STREAM_ROUNDS = 9, 3
LATENCY_ASKS = 300
BUSY_CONNECTIONS, BUSY_ASKS = 64, 60
STREAMS = 64
STALLED, STALLED_S = 64, 20.0


def compare_with_ssh() -> list[Figure]:
    """Measure latency, CPU, throughput, streams, and memory with stalled readers."""
    with tempfile.TemporaryDirectory(prefix="bouchet-bench-") as folder, both_ways(Path(folder)) as (ours, ssh):
        return [
            *_ratios("p50 of a 0.5 KB request, 1 connection", "ms", 1.1, ours, ssh, _latency_ms),
            *_ratios(f"CPU a request, {BUSY_CONNECTIONS} connections", "us", 2.5, ours, ssh, _cpu_us),
            *_ratios("bulk", "MB/s", 0.8, ours, ssh, _bulk_mb_s, more_is_better=True),
            *_streams(ours, ssh),
            _stalled(ours),
        ]


_Measure = Callable[[Way], Coroutine[Any, Any, float]]


def _ratios(
    title: str, unit: str, target: float, ours: Way, ssh: Way, measure: _Measure, *, more_is_better: bool = False
) -> list[Figure]:
    """Return the medians and their ratio beside its target; the two alternate, because the machine is not quiet."""
    seen: dict[str, list[float]] = {ours.name: [], ssh.name: []}
    used: dict[str, float] = {ours.name: 0.0, ssh.name: 0.0}
    for _ in range(ROUNDS):
        for way in (ours, ssh):
            before = way.cpu_s()
            seen[way.name].append(asyncio.run(measure(way)))
            used[way.name] += way.cpu_s() - before
    mine, theirs = statistics.median(seen[ours.name]), statistics.median(seen[ssh.name])
    note = (
        f"gateway {mine:.2f} {unit}, ssh -L {theirs:.2f} {unit}, medians of {ROUNDS}; "
        f"CPU for the same work {used[ours.name] / used[ssh.name]:.2f} x"
    )
    return [Figure(f"tunnel: {title}, ratio to ssh -L", mine / theirs, "x", target, note, at_least=more_is_better)]


async def _latency_ms(way: Way) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"r")
    took = []
    for _ in range(LATENCY_ASKS):
        began = time.perf_counter()
        writer.write(BODY)
        await reader.readexactly(len(BODY))
        took.append(time.perf_counter() - began)
    writer.close()
    return statistics.median(took) * 1000


async def _cpu_us(way: Way) -> float:
    async def talk() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"r")
        for _ in range(BUSY_ASKS):
            writer.write(BODY)
            await reader.readexactly(len(BODY))
        writer.close()

    before = way.cpu_s()
    await asyncio.gather(*(talk() for _ in range(BUSY_CONNECTIONS)))
    return (way.cpu_s() - before) / (BUSY_CONNECTIONS * BUSY_ASKS) * 1e6


async def _bulk_mb_s(way: Way) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    began, size = time.perf_counter(), 0
    writer.write(b"b")
    while piece := await reader.read(1 << 20):
        size += len(piece)
    writer.close()
    assert size == upstream.BULK, f"{size} of {upstream.BULK} bytes came through {way.name}"
    return size / (time.perf_counter() - began) / 1e6


def _streams(ours: Way, ssh: Way) -> list[Figure]:
    """Share of a core for many slow streams, and how late their events came."""
    shares: dict[str, list[float]] = {ours.name: [], ssh.name: []}
    lates: dict[str, list[float]] = {ours.name: [], ssh.name: []}
    for _ in range(STREAM_ROUNDS):
        for way in (ours, ssh):
            before, began = way.cpu_s(), time.monotonic()
            lates[way.name].append(asyncio.run(_listen(way)))
            shares[way.name].append((way.cpu_s() - before) / (time.monotonic() - began) * 100)
    share, theirs = statistics.median(shares[ours.name]), statistics.median(shares[ssh.name])
    late, their_late = statistics.median(lates[ours.name]), statistics.median(lates[ssh.name])
    note = f"ssh -L {theirs:.1f} %; p99 of an event's way: {late:.1f} ms, ssh -L {their_late:.1f} ms"
    return [Figure(f"tunnel: {STREAMS} streams x {upstream.EVENTS_PER_S} events/s", share, "% of a core", 8, note)]


async def _listen(way: Way) -> float:
    """Return the 99th percentile of an event's delay, in ms."""
    late: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"s")
        for _ in range(upstream.STREAM_EVENTS):
            event = await reader.readexactly(upstream.EVENT)
            late.append(time.monotonic() - struct.unpack("d", event[:8])[0])
        writer.close()

    await asyncio.gather(*(one() for _ in range(STREAMS)))
    return sorted(late)[int(len(late) * 0.99)] * 1000


def _stalled(ours: Way) -> Figure:
    """Measure memory with readers that stall, behind servers that send all they can."""

    async def stall() -> list[float]:
        pairs = [await asyncio.open_connection("127.0.0.1", ours.port, limit=4096) for _ in range(STALLED)]
        for _, writer in pairs:
            writer.write(b"f")
        seen = []
        for _ in range(int(STALLED_S)):
            await asyncio.sleep(1)
            seen.append(ours.memory_mib())
        for _, writer in pairs:
            writer.transport.abort()
        return seen

    seen = asyncio.run(stall())
    half = len(seen) // 2
    note = f"after 1 s {seen[0]:.0f}, {half} s {seen[half]:.0f}, {len(seen)} s {seen[-1]:.0f} MiB"
    return Figure(f"tunnel: memory with {STALLED} stalled readers", max(seen), "MiB", 150, note)


if __name__ == "__main__":
    from tests.bench.figures import render

    print(render(compare_with_ssh()))
