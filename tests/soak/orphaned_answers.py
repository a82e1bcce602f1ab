"""`python -m tests.soak.orphaned_answers`: the memory that long answers cost while their link is down.

A model behind the job's real guard, in a process of its own, produces 64 answers of 1.5 MiB while the proxy, another
process, holds their clients: the guard may keep 56 MiB of them, the proxy none. Afterwards each client must have all.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from bouchet_core.deployments import Traits
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import serving_key

from tests.bench.figures import Figure, render
from tests.conftest import free_port, free_ports, start_redis
from tests.fakes.cutting_relay import CuttingRelay
from tests.fakes.vllm.guarded import JOB_SCRIPTS, with_port
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.client import MESSAGES, OWNER, chat_body
from tests.proxy.environment import (
    JOB,
    NODE_PORT,
    SERVING_SECRET,
    SLOTS,
    ProxyEnvironment,
    make_deployment,
    run_direct_process,
)
from tests.waiting import wait_for

MODEL = "long"
ANSWERS, EVENTS, EVENTS_A_PIECE = 64, 10_000, 25
START_S, BEGIN_S, DOWN_S = 60.0, 60.0, 20.0
PIECE = "abcdefgh" * 6


def events() -> Iterator[bytes]:
    """Yield one answer, about 1.5 MiB, in pieces of several events."""
    usage = {"input_tokens": 5, "output_tokens": EVENTS}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": MODEL, "usage": usage}
    yield event("message_start", message=message)
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    delta = event("content_block_delta", index=0, delta={"type": "text_delta", "text": PIECE})
    for _ in range(EVENTS // EVENTS_A_PIECE):
        yield delta * EVENTS_A_PIECE
    yield event("content_block_stop", index=0)
    yield event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)
    yield event("message_stop")


def event(kind: str, **fields: Any) -> bytes:
    """Return one event as a server sends it."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


class LongAnswers:
    """An ASGI app that answers as vLLM does: the first piece of text at once, the others when a file appears."""

    def __init__(self, go: Path) -> None:
        self._go, self._threads = go, ThreadPoolExecutor(ANSWERS)

    def _wait(self) -> None:
        while not self._go.exists():
            time.sleep(0.2)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        is_health = scope["path"] == "/health"
        headers = [(b"content-length", b"0")] if is_health else [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if is_health:
            await send({"type": "http.response.body", "body": b""})
            return
        for number, data in enumerate(events()):
            # message_start, content_block_start, text
            if number == 3:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._wait)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def serve(port: int, go: Path) -> None:
    """Serve long answers behind the guard, whose key is in VLLM_API_KEY."""
    sys.path.append(str(JOB_SCRIPTS))
    guard = importlib.import_module("guard").Guard(LongAnswers(go))
    uvicorn.run(with_port(guard, NODE_PORT), port=port, lifespan="off", log_level="critical")


@contextmanager
def long_model(port: int, go: Path) -> Iterator[int]:
    """Run `serve` as a process; yield its id."""
    key = serving_key(SERVING_SECRET, JOB)
    argv = [sys.executable, "-m", "tests.soak.orphaned_answers", str(port), str(go)]
    process = subprocess.Popen(argv, env={**os.environ, "VLLM_API_KEY": key})
    try:
        wait_for(lambda: listens(port), START_S)
        yield process.pid
    finally:
        # it would wait for its open answers
        process.kill()
        process.wait(timeout=20)


def listens(port: int) -> bool:
    """Return whether something listens on that port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def memory_mib(pid: int) -> float:
    """Return the memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


async def read_answer(client: httpx.AsyncClient, url: str, begun: asyncio.Semaphore) -> int:
    """Ask, and return the length of the text in the answer; `begun` is released after the first piece."""
    size, rest, is_first = 0, b"", True
    needle = PIECE.encode()
    async with client.stream("POST", url, json=chat_body("x", model=MODEL, stream=True), headers=OWNER) as response:
        assert response.status_code == 200, await response.aread()
        async for data in response.aiter_raw():
            *lines, rest = (rest + data).split(b"\n")
            size += sum(len(needle) for line in lines if needle in line)
            if is_first and size:
                is_first = False
                begun.release()
    return size


async def measure(url: str, relay: CuttingRelay, go: Path, pids: tuple[int, int]) -> list[Figure]:
    """Cut the link under all answers; return what the guard and the proxy grew by, and what the clients lack."""
    begun = asyncio.Semaphore(0)
    limits = httpx.Limits(max_connections=ANSWERS)
    async with httpx.AsyncClient(verify=NO_TLS, timeout=600, limits=limits) as client:
        tasks = [asyncio.create_task(read_answer(client, url, begun)) for _ in range(ANSWERS)]
        for _ in tasks:
            await asyncio.wait_for(begun.acquire(), BEGIN_S)
        before = [memory_mib(pid) for pid in pids]
        await asyncio.to_thread(relay.cut, down=True)
        await asyncio.to_thread(go.touch)
        most = before
        until = time.monotonic() + DOWN_S
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            most = [max(one, memory_mib(pid)) for one, pid in zip(most, pids, strict=True)]
        await asyncio.to_thread(relay.restore)
        sizes = await asyncio.gather(*tasks)
    guard, proxy = (now - then for now, then in zip(most, before, strict=True))
    short = sum(size != EVENTS * len(PIECE) for size in sizes)
    return [
        Figure(f"{ANSWERS} orphaned answers: the guard's process grew by", guard, "MiB", 64),
        Figure(f"{ANSWERS} held clients: the proxy's process grew by", proxy, "MiB", 64),
        Figure("answers that are not whole", short, "", 0),
    ]


def main() -> int:
    """Return 1 if a target is missed."""
    if len(sys.argv) == 3:
        serve(int(sys.argv[1]), Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory(prefix="bouchet-orphans-") as name:
        folder, base, port = Path(name), free_ports(SLOTS + 1), free_port()
        redis = start_redis(folder, base + SLOTS)
        store, go = redis.store(), folder / "go"
        try:
            record = make_deployment(MODEL, "org/Long", traits=Traits(thinking="none", max_output=8192))
            job = record.jobs[0].model_copy(update={"resumes": 1})
            store.create(record.model_copy(update={"jobs": (job,)}))
            with serve_vllm(FakeVLLM(("unused",), "unused")) as unused, long_model(port, go) as guard:
                environment = ProxyEnvironment(folder, redis.port, redis.password, store, base, unused)
                with CuttingRelay(base, port) as relay, run_direct_process(environment) as proxy:
                    wait_for(lambda: MODEL in httpx.get(f"{proxy.url}/v1/models", headers=OWNER, verify=NO_TLS).text)
                    assert proxy.pid is not None
                    figures = asyncio.run(measure(proxy.url + MESSAGES, relay, go, (guard, proxy.pid)))
        finally:
            store.close()
            redis.stop()
    print(render(figures))
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
