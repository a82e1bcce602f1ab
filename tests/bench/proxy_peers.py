"""Our proxy beside the others: the same model, the same request, turn by turn.

`python -m tests.bench.proxy_peers` measures this alone; BOUCHET_PROXY_IMAGE names the image.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.proxy.environment import IMAGE_VARIABLE

from .chain import chat_body, claude_body
from .clients import Way, one_by_one, requests_per_s, side_by_side
from .figures import Figure, render
from .peers import ROOT, all_ways

# BOUCHET_BENCH_TURNS=1: a short run, which only shows that everything answers
TURNS, ASKED_A_TURN = int(os.environ.get("BOUCHET_BENCH_TURNS", "12")), 3
CLIENTS, BUSY_S, BUSY_TURNS = 16, 2.0, 2
CHAT = "/v1/chat/completions"
# streams that the slowest of them can still follow, and what is promised for ours
FEW, MANY, PER_S, STREAM_S = 4, 64, 50, 4
# events of one stream, sent as fast as they are taken: what an event costs besides being woken for it
BURST = 1000
OURS = "bouchet-llm"


@dataclass
class Measured:
    """What was seen of one way."""

    first_s: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    event_cpu_s: float = 0.0
    resident_mib: float = 0.0


@dataclass(frozen=True)
class Targets:
    """What is promised for one API."""

    title: str
    added_ms: float
    per_s: float
    event_us: float


TARGETS = {"messages": Targets("messages", 0.5, 3147, 10), "chats": Targets("chats", 0.7, 1500, 10)}


def compare_proxies(image: str) -> list[Figure]:
    """Measure our figures, each with those of the others in its note."""
    os.environ[IMAGE_VARIABLE] = image
    with tempfile.TemporaryDirectory() as folder, all_ways(Path(folder), ROOT / ".cache" / "bench-peers") as ways:
        return asyncio.run(_measure(ways))


async def _measure(ways: Sequence[Way]) -> list[Figure]:
    """Measure messages, then chats on the ways that speak them, then many streams at once."""
    figures = _beside(ways, await _see(ways), TARGETS["messages"])
    chats = [replace(way, path=CHAT) for way in ways if way.speaks_chats]
    return [*figures, *_beside(chats, await _see(chats), TARGETS["chats"]), *await _many_streams(ways)]


async def _see(ways: Sequence[Way]) -> dict[str, Measured]:
    seen = {way.name: Measured() for way in ways}
    for way in ways:
        await one_by_one(way, message_body(way, 1), 3)
    for _ in range(TURNS):
        for way in ways:
            seen[way.name].first_s += await one_by_one(way, message_body(way, 1), ASKED_A_TURN)
    for _ in range(BUSY_TURNS):
        for way in ways:
            seen[way.name].per_s.append(await requests_per_s(way, message_body(way, 1), CLIENTS, BUSY_S))
    idle = await _idle(ways)
    for way in ways:
        if way.pid is not None:
            seen[way.name].event_cpu_s = await _event_cpu_s(way, idle[way.pid])
            seen[way.name].resident_mib = _resident_mib(way.pid)
    return seen


def message_body(way: Way, events: int, per_s: int = 0) -> bytes:
    """Make a request for that many events, at once or per second, of the size of Claude Code's first."""
    make = chat_body if way.path == CHAT else claude_body
    asked = make(f"EVENTS[{events},{per_s}]")
    return asked.replace(b'"model": "bouchet-scripted"', f'"model": "{way.model}"'.encode())


async def _idle(ways: Sequence[Way]) -> dict[int, float]:
    """Measure the share of a core that each uses when idle."""
    before = {way.pid: _cpu_s(way.pid) for way in ways if way.pid is not None}
    await asyncio.sleep(STREAM_S)
    return {pid: (_cpu_s(pid) - spent) / STREAM_S for pid, spent in before.items()}


async def _event_cpu_s(way: Way, idle: float) -> float:
    """Measure the CPU seconds of one more event: long streams against short ones."""
    assert way.pid is not None
    spent = []
    for events in (1, BURST):
        before, began = _cpu_s(way.pid), time.monotonic()
        await side_by_side(way, message_body(way, events), FEW)
        spent.append(_cpu_s(way.pid) - before - idle * (time.monotonic() - began))
    return (spent[1] - spent[0]) / (FEW * (BURST - 1))


async def _many_streams(ways: Sequence[Way]) -> list[Figure]:
    direct, ours = ways[0], next(way for way in ways if way.name == OURS)
    assert ours.pid is not None
    body = message_body(ours, PER_S * STREAM_S, PER_S)
    straight = _p99(await side_by_side(direct, body, MANY))
    before = _cpu_s(ours.pid)
    late = _p99(await side_by_side(ours, body, MANY))
    cores = (_cpu_s(ours.pid) - before) / STREAM_S
    title = f"{MANY} streams x {PER_S} events/s"
    note = f"{straight * 1000:.1f} ms without a proxy"
    return [
        Figure(f"{title}: lateness of an event, p99", late * 1000, "ms", 50, note),
        Figure(f"{title}: CPU of the proxy", cores * 100, "%", 50),
    ]


def _beside(ways: Sequence[Way], seen: dict[str, Measured], targets: Targets) -> list[Figure]:
    straight = statistics.median(seen[ways[0].name].first_s)
    ours, others = seen[OURS], [way for way in ways[1:] if way.name != OURS]

    def added_ms(name: str) -> float:
        return (statistics.median(seen[name].first_s) - straight) * 1000

    def note(value: object) -> str:
        assert callable(value)
        return "; ".join(f"{way.name} {value(way.name)}" for way in others)

    peers = [way.name for way in others if not way.name.startswith(OURS)]
    busy = {way.name: statistics.median(seen[way.name].per_s) for way in ways[1:]}
    times_best = busy[OURS] / max(busy[name] for name in peers)
    title = f"proxy, {targets.title}:"
    event_us, event_note = ours.event_cpu_s * 1e6, note(lambda n: f"{seen[n].event_cpu_s * 1e6:.0f} us")
    per_s, per_s_note = busy[OURS], note(lambda n: f"{busy[n]:.0f}/s")
    memory_note = note(lambda n: f"{seen[n].resident_mib:.0f}")
    return [
        Figure(
            f"{title} added to first byte, 77 KB",
            added_ms(OURS),
            "ms",
            targets.added_ms,
            note(lambda n: f"{added_ms(n):.1f} ms"),
        ),
        Figure(f"{title} {CLIENTS} clients", per_s, "/s", targets.per_s, per_s_note, at_least=True),
        Figure(f"{title} {CLIENTS} clients, times the best other", times_best, "x", 20, at_least=True),
        Figure(f"{title} CPU of a streamed event", event_us, "us", targets.event_us, event_note),
        Figure(f"{title} resident memory", ours.resident_mib, "MiB", 400, memory_note),
    ]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    figures = compare_proxies(os.environ.get(IMAGE_VARIABLE, "bouchet/proxy:dev"))
    print(render(figures))
    sys.exit(0 if all(figure.is_met for figure in figures) else 1)
