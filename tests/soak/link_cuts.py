"""`python -m tests.soak.link_cuts [SECONDS]`: the gateway under load while its link is cut again and again.

Clients ask twice a second each, others listen to streams; every CUT_EVERY_S the link freezes, breaks or blinks. No
request may fail, no stream may end as if it were whole, and the process must not grow.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_core.store import FIRST_EVENT, Store
from bouchet_core.tunnel import TunnelState

from tests.bench.figures import Figure, render
from tests.bench.tunnel import upstream
from tests.bench.tunnel.ends import BODY, Way, answers, redis_in, start_gateway, start_sshd, start_upstream, starter
from tests.gateway.faulty_network import Link, link_to
from tests.gateway.running import serve_behind

SOAK_S, CUT_EVERY_S, SETTLE_S = 600.0, 30.0, 5.0
ASKERS, LISTENERS, ASK_EVERY_S = 16, 16, 0.5
# seconds without the link, in turn: a closed lid, a VPN that reconnects, a short gap; 0 breaks the connection
CUTS_S = (10.0, 0.0, 3.0)
# the gateway holds callers for 30 s
PATIENCE_S, SILENCE_S = 45.0, 15.0


@dataclass
class Counts:
    """What happened."""

    answered: int = 0
    again: int = 0
    failed: list[str] = field(default_factory=list)
    whole: int = 0
    broken: int = 0
    silent: list[str] = field(default_factory=list)
    logins: int = 0
    back_s: list[float] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)


async def soak(seconds: float) -> list[Figure]:
    """Run for that many seconds."""
    counts = Counts()
    async with _gateway() as (way, link, store):
        until = time.monotonic() + seconds
        await asyncio.sleep(SETTLE_S)
        before = _size(way)
        loads = [asyncio.create_task(_ask_on(way, until, counts)) for _ in range(ASKERS)]
        loads += [asyncio.create_task(_listen_on(way, until, counts)) for _ in range(LISTENERS)]
        await asyncio.sleep(SETTLE_S)
        cpu, began = way.cpu_s(), time.monotonic()
        cuts = await _cut_on(way, link, until, counts)
        await asyncio.gather(*loads)
        share = (way.cpu_s() - cpu) / (time.monotonic() - began) * 100
        await asyncio.sleep(SETTLE_S)
        counts.logins = sum(event.state is TunnelState.UP for _, event in store.tunnel.events(FIRST_EVENT))
        return _figures(counts, before, _size(way), cuts, share)


async def _ask_on(way: Way, until: float, counts: Counts) -> None:
    """Send requests, and repeat where the connection broke before the answer, as the proxy does."""
    while time.monotonic() < until:
        began, tries = time.monotonic(), 0
        while True:
            try:
                await _ask(way)
                counts.answered += 1
                counts.waited_s.append(time.monotonic() - began)
                break
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as exc:
                tries, counts.again = tries + 1, counts.again + 1
                if time.monotonic() - began > PATIENCE_S or tries > 2:
                    counts.failed.append(f"after {time.monotonic() - began:.1f} s: {exc!r}")
                    break
        await asyncio.sleep(ASK_EVERY_S)


async def _ask(way: Way) -> None:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        try:
            writer.write(b"r" + BODY)
            answer = await reader.readexactly(len(BODY))
            if answer != BODY:
                raise ValueError(answer[:60].decode("latin-1"))
        finally:
            writer.close()


async def _listen_on(way: Way, until: float, counts: Counts) -> None:
    while time.monotonic() < until:
        got = 0
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
            writer.write(b"s")
            while got < upstream.STREAM_EVENTS * upstream.EVENT:
                async with asyncio.timeout(PATIENCE_S if not got else SILENCE_S):
                    piece = await reader.read(65536)
                if not piece:
                    counts.silent.append(f"ended properly after {got} bytes")
                    break
                got += len(piece)
            else:
                counts.whole += 1
            writer.close()
        except TimeoutError:
            counts.silent.append(f"silent after {got} bytes")
        except OSError:
            counts.broken += 1


async def _cut_on(way: Way, link: Link, until: float, counts: Counts) -> int:
    """Cut the link until then; return how often."""
    number = 0
    while time.monotonic() + CUT_EVERY_S / 2 < until:
        length_s = CUTS_S[number % len(CUTS_S)]
        number += 1
        began = time.monotonic()
        if length_s:
            link.freeze()
            await asyncio.sleep(length_s)
            link.thaw()
        else:
            link.cut()
        there = time.monotonic()
        await _answer(way)
        counts.back_s.append(time.monotonic() - there)
        await asyncio.sleep(max(0.0, min(began + CUT_EVERY_S, until) - time.monotonic()))
    return number


async def _answer(way: Way) -> None:
    """Wait until it answers."""
    while True:
        if await answers(way):
            return
        await asyncio.sleep(0.05)


@dataclass(frozen=True)
class _Size:
    memory_mib: float
    descriptors: int
    threads: int


def _size(way: Way) -> _Size:
    process = Path(f"/proc/{way.pid}")
    return _Size(way.memory_mib(), *(len(list((process / kind).iterdir())) for kind in ("fd", "task")))


def _figures(counts: Counts, before: _Size, after: _Size, cuts: int, share: float) -> list[Figure]:
    waited = sorted(counts.waited_s)
    failed, silent = "; ".join(counts.failed[:3]), "; ".join(counts.silent[:3])
    asked = f"{counts.answered} answered, {counts.again} asked again, longest {waited[-1]:.1f} s {failed}"
    streams = f"{counts.whole} whole, {counts.broken} with an error {silent}"
    back = f"median {statistics.median(counts.back_s):.2f} s of {len(counts.back_s)}"
    return [
        Figure(f"soak: failed requests, {cuts} cuts", len(counts.failed), "", 0, asked),
        Figure("soak: streams that ended in silence", len(counts.silent), "", 0, streams),
        Figure("soak: back after the link", max(counts.back_s), "s", 2, back),
        # where the login asks a person, each is a prompt
        Figure("soak: logins more than cuts", counts.logins - 1 - cuts, "", 0, f"{counts.logins} logins in all"),
        Figure("soak: memory", after.memory_mib, "MiB", 150, f"{before.memory_mib:.0f} MiB before the load"),
        Figure("soak: descriptors more than before the load", after.descriptors - before.descriptors, "", 4),
        # Python keeps a pool of them for what blocks
        Figure("soak: threads more than before the load", after.threads - before.threads, "", 8),
        Figure("soak: CPU", share, "% of a core"),
    ]


@asynccontextmanager
async def _gateway() -> AsyncIterator[tuple[Way, Link, Store]]:
    """Start a gateway whose connection goes over a link."""
    with tempfile.TemporaryDirectory(prefix="bouchet-soak-") as name, ExitStack() as running:
        folder = Path(name)
        start = starter(folder, running)
        target, sshd_port = start_upstream(folder, start), start_sshd(folder, start)
        redis = redis_in(folder, running)
        async with link_to(sshd_port) as link:
            hosts = folder / "known_hosts"
            hosts.write_text(hosts.read_text().replace(str(sshd_port), str(link.port)))
            way = start_gateway(folder, link.port, redis, start)
            store = redis.store()
            serve_behind(store, 0, target)
            await _answer(way)
            yield way, link, store


def main() -> int:
    """Return 1 if a target is missed."""
    figures = asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else SOAK_S))
    print(render(figures))
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
