"""`python -m tests.soak.hostile_requests`: what one client's requests can do to the proxy, to others and to Redis.

Each kind is sent to a proxy of its own process while another client asks for short answers. Figures: how long the
refusal took, the lateness of the other client's answers, the memory of the process, and what Redis grew by.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from bouchet_core.deployments import Phase
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import ApiKey, sha256_of
from bouchet_core.store import Store
from bouchet_core.usage import UsageRecord

from tests.bench.figures import Figure, render
from tests.conftest import free_port, free_ports, start_redis
from tests.proxy.client import COMPLETIONS, MESSAGES, OWNER, chat_body
from tests.proxy.environment import (
    ALIAS,
    MODEL,
    SLOTS,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_direct_process,
    serve_model,
)
from tests.waiting import wait_for

MIB = 1 << 20
HELD = "held"
HELD_STREAMS = 500
# of another person; the owner has no limit but that of all keys together
LAB_SECRET = "sk-bouchet-of-a-lab"
ASK_EVERY_S, ASK_AT_LEAST = 0.02, 20
UNKNOWN_REQUESTS = 400_000
BATCH = 500
UNKNOWN = UsageRecord(
    at=1_795_000_000.0,
    key="lab",
    model="",
    session="",
    deployment="",
    endpoint=MESSAGES,
    status=404,
    error="not_found_error",
    input=0,
    cached=0,
    output=0,
    first_ms=None,
    generating_ms=0,
)


@dataclass(frozen=True)
class Attack:
    """One kind of request. statuses: what it may be answered with."""

    title: str
    path: str
    body: Callable[[], bytes]
    headers: dict[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (400, 413)


def _messages(value: str) -> bytes:
    return b'{"model":"%s","max_tokens":5,"messages":%s}' % (ALIAS.encode(), value.encode())


def _keys() -> bytes:
    fields = {f"field_{number}": number for number in range(16_000)}
    return json.dumps({**chat_body("SAY[a]"), "metadata": fields}).encode()


ATTACKS = (
    Attack("64 MiB of []", MESSAGES, lambda: _messages("[" + "[]," * (64 * MIB // 3 - 40) + "[]]")),
    Attack("200,001 values", MESSAGES, lambda: _messages("[" + "0," * 200_001 + "0]")),
    Attack("16,000 keys in one object", MESSAGES, _keys, statuses=(200, 400, 413)),
    Attack(
        "60,000 blanks in a field",
        COMPLETIONS,
        lambda: json.dumps({"model": ALIAS, "prompt": "a", "temperature": " " * 60_000 + "x"}).encode(),
        # whether it is a number is vLLM's to judge, and the fake one takes it
        statuses=(200, 400),
    ),
    Attack("3,000 nested lists", MESSAGES, lambda: _messages("[" * 3000 + "]" * 3000)),
    Attack(
        "a gzip bomb of 1 GiB",
        MESSAGES,
        lambda: gzip.compress(b" " * (64 * MIB)) * 16,
        {"content-encoding": "gzip"},
        (400, 413, 415, 429),
    ),
    Attack("10,000 headers", MESSAGES, lambda: b"{}", {f"x-{n}": "y" * 20 for n in range(10_000)}, (400, 431)),
)

HARMLESS = Attack("", MESSAGES, lambda: _messages('[{"role":"user","content":"SAY[a]"}]'))


def send(url: str, number: int) -> tuple[int, float]:
    """Send that attack once; return the status, 0 where the connection was closed instead, and the seconds it took."""
    return post(url, ATTACKS[number])


def post(url: str, attack: Attack) -> tuple[int, float]:
    """Send a request as fast as possible: a client that checks 10,000 headers takes seconds for that alone."""
    data, target = attack.body(), urlsplit(url)
    headers = {**OWNER, "content-type": "application/json", **attack.headers}
    connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
    began = time.monotonic()
    try:
        connection.request("POST", attack.path, data, headers)
        response = connection.getresponse()
        response.read()
        status = response.status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return status, time.monotonic() - began


def held_statuses(url: str, count: int, patience_s: float) -> list[int]:
    """Hold streams from a process of their own; return the status of each."""
    return asyncio.run(hold_streams(url, count, patience_s))


async def hold_streams(url: str, count: int, patience_s: float) -> list[int]:
    """Open that many streams of one key for a model that is still starting; return the status of each."""
    body = chat_body("x", model=HELD, stream=True)

    async def open_one(client: httpx.AsyncClient) -> int:
        with contextlib.suppress(httpx.TimeoutException, TimeoutError):
            async with (
                asyncio.timeout(patience_s),
                client.stream("POST", url + MESSAGES, json=body, headers={"x-api-key": LAB_SECRET}) as response,
            ):
                if response.status_code == 200:
                    await asyncio.sleep(patience_s)
                return response.status_code
        return 200

    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60, limits=limits) as client:
        return list(await asyncio.gather(*(open_one(client) for _ in range(count))))


class OtherClient:
    """Asks for a short answer again and again in a thread, and notes how long each took."""

    def __init__(self, proxy: RunningProxy) -> None:
        self.seconds: list[float] = []
        self._proxy, self._stopping = proxy, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> OtherClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        wait_for(lambda: len(self.seconds) >= ASK_AT_LEAST)
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(verify=NO_TLS, timeout=60) as client:
            while not self._stopping.wait(ASK_EVERY_S):
                began = time.monotonic()
                answer = client.post(self._proxy.url + MESSAGES, json=chat_body("SAY[a]"), headers=OWNER)
                assert answer.json()["content"][0]["text"] == "a", answer.text
                self.seconds.append(time.monotonic() - began)


def p99_ms(seconds: list[float]) -> float:
    """Return the 99th percentile in ms."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * 0.99))] * 1000


def peak_mib(proxy: RunningProxy) -> float:
    """Return the most memory that the process has had."""
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


@contextmanager
def running_proxy(folder: Path) -> Iterator[RunningProxy]:
    """Run a proxy with a ready model and one that is still starting."""
    base = free_ports(SLOTS + 1)
    redis = start_redis(folder, base + SLOTS)
    store = redis.store()
    try:
        with serve_model(base) as vllm:
            holder = ApiKey(name="lab", sha256=sha256_of(LAB_SECRET), ending="lab", created_at=datetime.now(UTC))
            store.api_keys.add(holder)
            store.create(make_deployment())
            store.create(make_deployment(HELD, "org/Held", phase=Phase.STARTING, slot=1))
            environment = ProxyEnvironment(folder, redis.port, redis.password, store, base, vllm)
            with run_direct_process(environment) as proxy:
                wait_for(lambda: post(proxy.url, HARMLESS)[0] == 200)
                yield proxy
    finally:
        store.close()
        redis.stop()


def measure_attacks(folder: Path) -> list[Figure]:
    """Send each kind three times, and the held streams once, from a process of their own.

    The other client and the model share a process: what the attacker computes must not make them late.
    """
    figures = []
    with running_proxy(folder) as proxy, get_context("spawn").Pool(1) as attacker:
        with OtherClient(proxy) as other:
            time.sleep(3)
        figures.append(Figure("other client, nothing else: p99", p99_ms(other.seconds), "ms"))
        for number, attack in enumerate(ATTACKS):
            with OtherClient(proxy) as other:
                seen = [attacker.apply(send, (proxy.url, number)) for _ in range(3)]
            bad = [status for status, _ in seen if status not in attack.statuses]
            slowest = max(seconds for _, seconds in seen)
            note = f"statuses {[status for status, _ in seen]}; others' p99 {p99_ms(other.seconds):.0f} ms"
            figures.append(Figure(attack.title, slowest if not bad else float("inf"), "s", 1, note))
            figures.append(Figure(f"{attack.title}: others' p99", p99_ms(other.seconds), "ms", 50))
        with OtherClient(proxy) as other:
            statuses = attacker.apply(held_statuses, (proxy.url, HELD_STREAMS, 5))
        refused = statuses.count(429)
        figures.append(Figure("500 held streams: refused", refused, "", 1, f"{set(statuses)}", at_least=True))
        figures.append(Figure("500 held streams: others' p99", p99_ms(other.seconds), "ms", 50))
        figures.append(Figure("most memory of the process", peak_mib(proxy), "MiB", 700))
    return figures


def fill_usage(store: Store, requests: int) -> float:
    """Record that many requests for unknown models, each with its own session; return what Redis grew by in MiB."""
    before = used_mib(store)
    for start in range(0, requests, BATCH):
        count = min(BATCH, requests - start)
        store.usage.add([replace(UNKNOWN, session=secrets.token_hex(6)) for _ in range(count)])
    return used_mib(store) - before


def used_mib(store: Store) -> float:
    """Return the memory that Redis uses for data."""
    connection = store.queue_connection()
    info = connection.info("memory")
    connection.close()
    assert isinstance(info, dict)
    return float(info["used_memory"]) / MIB


def measure_usage(folder: Path) -> list[Figure]:
    """Record UNKNOWN_REQUESTS; afterwards control writes must still be taken."""
    redis = start_redis(folder, free_port())
    store = redis.store()
    try:
        grown = fill_usage(store, UNKNOWN_REQUESTS)
        record = store.create(make_deployment(model=MODEL))
        store.update(record.id, lambda one: one.moved(Phase.ENDED, datetime.now(UTC)))
        note = "each with a session of its own; a launch and a cancel are recorded afterwards"
        return [Figure(f"Redis after {UNKNOWN_REQUESTS:,} requests for unknown models", grown, "MiB", 20, note)]
    finally:
        store.close()
        redis.stop()


def main() -> int:
    """Return 1 if a target is missed."""
    with tempfile.TemporaryDirectory(prefix="bouchet-hostile-") as one, tempfile.TemporaryDirectory() as two:
        figures = [*measure_attacks(Path(one)), *measure_usage(Path(two))]
    print(render(figures))
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
