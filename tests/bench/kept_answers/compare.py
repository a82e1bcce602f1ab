"""What it costs that answers outlive their connections, while none is cut: kept answers beside plain ones, in pairs.

One proxy, one guard in front of one model. The record of a deployment says whether its job keeps answers (`resumes`),
so two records of the same server are the two sides. `python -m tests.bench.kept_answers.compare` measures this alone.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bouchet_core.deployments import Traits
from bouchet_core.keys import serving_key
from bouchet_core.store import Store

from tests.bench.clients import Way, one_by_one, requests_per_s, side_by_side
from tests.bench.figures import Figure, render
from tests.bench.peers import ROOT, WINDOW
from tests.bench.proxy_peers import CLIENTS, message_body
from tests.conftest import free_port, start_redis
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.environment import (
    JOB,
    KEY,
    NODE_PORT,
    SERVING_SECRET,
    ProxyEnvironment,
    make_deployment,
    run_direct_process,
    wait_until_live,
)

# BOUCHET_BENCH_PAIRS=3: a short run
PAIRS = int(os.environ.get("BOUCHET_BENCH_PAIRS", "40"))
ASKED, BUSY_S, STREAMS, EVENTS = 10, 1.0, 8, 300
KEPT, PLAIN = "kept", "plain"
TARGET_PERCENT = 2.0


def compare_resuming() -> list[Figure]:
    """Measure kept answers beside plain ones."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (kept, plain, pids):
        return asyncio.run(_measure(kept, plain, pids))


@contextmanager
def running(folder: Path) -> Iterator[tuple[Way, Way, tuple[int, int]]]:
    """Start everything; yield the two ways, and the processes of the proxy and of the guard."""
    with ExitStack() as opened:
        base = free_port()
        guard = opened.enter_context(_guarded_model(base))
        redis = start_redis(folder, free_port())
        opened.callback(redis.stop)
        store = redis.store()
        opened.callback(store.close)
        for name, resumes in ((KEPT, 1), (PLAIN, 0)):
            _record(store, name, resumes)
        fake = FakeVLLM((KEPT,), KEY, WINDOW)
        environment = ProxyEnvironment(folder, redis.port, redis.password, store, base, fake)
        proxy = opened.enter_context(run_direct_process(environment))
        assert proxy.pid is not None
        kept, plain = (Way(name, proxy.url, KEY, name) for name in (KEPT, PLAIN))
        yield kept, plain, (proxy.pid, guard.pid)


def _record(store: Store, name: str, resumes: int) -> None:
    made = make_deployment(name, f"org/{name}", traits=Traits(tool_parser="qwen3_coder", max_output=WINDOW))
    assert made.job is not None
    job = made.job.model_copy(update={"window": WINDOW, "resumes": resumes})
    store.create(made.model_copy(update={"jobs": (job,)}))


@contextmanager
def _guarded_model(port: int) -> Iterator[subprocess.Popen[bytes]]:
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'services/proxy'}:{ROOT}",
        "VLLM_API_KEY": serving_key(SERVING_SECRET, JOB),
    }
    argv = [sys.executable, "-m", "tests.bench.kept_answers.guarded_model", str(port), str(NODE_PORT)]
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_live(f"http://127.0.0.1:{port}/health", process)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


async def _measure(kept: Way, plain: Way, pids: Sequence[int]) -> list[Figure]:
    await one_by_one(kept, message_body(kept, 1), ASKED)
    await one_by_one(plain, message_body(plain, 1), ASKED)

    async def first_byte_s(way: Way) -> float:
        return statistics.median(await one_by_one(way, message_body(way, 1), ASKED))

    async def request_s(way: Way) -> float:
        return 1 / await requests_per_s(way, message_body(way, 1), CLIENTS, BUSY_S)

    async def event_cpu_s(way: Way) -> float:
        before = sum(map(_cpu_s, pids))
        await side_by_side(way, message_body(way, EVENTS), STREAMS)
        return (sum(map(_cpu_s, pids)) - before) / (STREAMS * EVENTS)

    measured: list[tuple[str, str, float, Callable[[Way], Awaitable[float]]]] = [
        ("first byte, 77 KB, from the client", "ms", 1e3, first_byte_s),
        (f"time of a request, {CLIENTS} clients", "ms", 1e3, request_s),
        ("CPU of an event, proxy and guard", "us", 1e6, event_cpu_s),
    ]
    return [_figure(title, unit, scale, await _pairs(kept, plain, act)) for title, unit, scale, act in measured]


async def _pairs(kept: Way, plain: Way, act: Callable[[Way], Awaitable[float]]) -> list[tuple[float, float]]:
    """Measure both sides PAIRS times, each of them first in turn."""
    pairs = []
    for number in range(PAIRS):
        order = (kept, plain) if number % 2 else (plain, kept)
        seen = {way.name: await act(way) for way in order}
        pairs.append((seen[KEPT], seen[PLAIN]))
    return pairs


def _figure(title: str, unit: str, scale: float, pairs: Sequence[tuple[float, float]]) -> Figure:
    """Make a figure of the median of the differences; the note says how far they spread."""
    percent = sorted((kept / plain - 1) * 100 for kept, plain in pairs)
    quarter = len(percent) // 4
    sides = [statistics.median(side) * scale for side in zip(*pairs, strict=True)]
    note = (
        f"kept {sides[0]:.3f} {unit}, plain {sides[1]:.3f} {unit}; half of {len(percent)} pairs within "
        f"{percent[quarter]:.1f} and {percent[-quarter - 1]:.1f} %"
    )
    return Figure(f"kept answers: {title}", statistics.median(percent), "%", TARGET_PERCENT, note)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads, to the nanosecond: /proc/PID/stat counts in hundredths."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    began = time.monotonic()
    figures = compare_resuming()
    print(render(figures), f"\n{time.monotonic() - began:.0f} s")
    sys.exit(0 if all(figure.is_met for figure in figures) else 1)
