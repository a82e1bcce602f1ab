"""`python -m tests.soak.cut_answers [SECONDS [LONGEST CUT]]`: answers of all dialects while their links are cut.

Sixteen clients ask over four links, each a relay between the proxy and a model's server behind the job's real guard.
Every link is cut again and again, at random moments, for 0.1 s to the longest cut; some freeze before they break. No
answer may end in an error, and each must be the one that is given without cuts, byte for byte.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import serving_key

from tests.bench.figures import Figure, render
from tests.conftest import free_port, free_ports, start_redis
from tests.fakes.cutting_relay import CuttingRelay
from tests.fakes.vllm.guarded import GuardedVLLM, serve_guarded
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.client import CHAT, COMPLETIONS, MESSAGES, OWNER, RESPONSES, chat_body, without_pings
from tests.proxy.environment import (
    NODE_PORT,
    SERVING_SECRET,
    SLOTS,
    WINDOW,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_app,
)
from tests.waiting import wait_for

SOAK_S, LONGEST_S, SHORTEST_S = 600.0, 60.0, 0.1
CLIENTS_EACH, PAUSE_S = 4, 1.0
IDS = re.compile(rb"chatcmpl-[a-z]+-\d+")
WORDS = " ".join(f"word{number}" for number in range(30))
CALL = 'CALL[bash {"command": "ls -l /tmp and more of that", "again": "x y z"}]'
PROMPTS = (
    f"SAY[{WORDS}] PACE[0.03]",
    f"THINK[let me see] SAY[yes] {CALL} PACE[0.05]",
    "SAY[after a long prompt] SLOW[1]",
    "SAY[late head] HEAD[0.7]",
)


@dataclass
class Counts:
    """What happened. differing: answers that were not the uncut ones."""

    answered: int = 0
    cuts: int = 0
    errors: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    cut_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def requests_of(model: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the requests: each dialect, streamed and whole."""
    made: list[tuple[str, dict[str, Any]]] = []
    for text in PROMPTS:
        for stream in (True, False):
            made.append((MESSAGES, chat_body(text, model=model, stream=stream)))
            made.append((CHAT, chat_body(text, model=model, stream=stream)))
        made.append((RESPONSES, {"model": model, "input": text, "stream": True}))
        made.append((COMPLETIONS, {"model": model, "prompt": text, "max_tokens": 50, "stream": True}))
    return made


def ask(proxy: RunningProxy, path: str, body: dict[str, Any]) -> bytes:
    """Return an answer without what differs in each."""
    response = httpx.post(proxy.url + path, json=body, headers=OWNER, timeout=900, verify=NO_TLS)
    assert response.status_code == 200, f"{path}: {response.status_code} {response.text[:200]}"
    return without_pings(IDS.sub(b"ID", response.content))


def ask_on(proxy: RunningProxy, wanted: list[tuple[str, dict[str, Any], bytes]], until: float, counts: Counts) -> None:
    """Ask one request after the other, and compare."""
    while time.monotonic() < until:
        path, body, uncut = random.choice(wanted)
        try:
            answer = ask(proxy, path, body)
        except (AssertionError, httpx.HTTPError) as exc:
            with counts.lock:
                counts.errors.append(repr(exc)[:300])
            continue
        with counts.lock:
            counts.answered += 1
            if answer != uncut:
                counts.differing.append(f"{path}: {answer[-200:]!r}")


def cut_on(relay: CuttingRelay, until: float, longest_s: float, counts: Counts) -> None:
    """Cut a link again and again, for times that are spread evenly over their orders of magnitude."""
    while time.monotonic() < until:
        time.sleep(random.uniform(0.05, PAUSE_S))
        down_s = SHORTEST_S * (longest_s / SHORTEST_S) ** random.random()
        relay.cut(half=random.random() < 0.3, down=True)
        time.sleep(down_s)
        relay.restore()
        with counts.lock:
            counts.cuts += 1
            counts.cut_s.append(down_s)


def soak(seconds: float, longest_s: float) -> list[Figure]:
    """Run for that many seconds."""
    counts = Counts()
    with ExitStack() as running, tempfile.TemporaryDirectory(prefix="bouchet-cuts-") as name:
        proxy, links = start(Path(name), running)
        wanted = [[(path, body, ask(proxy, path, body)) for path, body in requests_of(f"cut{n}")] for n in range(SLOTS)]
        served = sum(len(server.vllm.requests) for server, _ in links)
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=ask_on, args=(proxy, wanted[n % SLOTS], until, counts))
            for n in range(CLIENTS_EACH * SLOTS)
        ]
        threads += [threading.Thread(target=cut_on, args=(relay, until, longest_s, counts)) for _, relay in links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        twice = sum(len(server.vllm.requests) for server, _ in links) - served - counts.answered - len(counts.errors)
        kept_mib = max(server.answers.kept_bytes for server, _ in links) / 2**20
    spread = f"{min(counts.cut_s):.1f} to {max(counts.cut_s):.1f} s, {counts.answered} answers"
    return [
        Figure(f"cuts: answers that ended in an error, {counts.cuts} cuts", len(counts.errors), "", 0, spread),
        Figure("cuts: answers that differ", len(counts.differing), "", 0, "; ".join(counts.differing[:2])),
        Figure("cuts: requests that were served twice", twice, "", 0, "; ".join(counts.errors[:2])),
        Figure("cuts: kept by a guard", kept_mib, "MiB", 64),
    ]


def start(folder: Path, running: ExitStack) -> tuple[RunningProxy, list[tuple[GuardedVLLM, CuttingRelay]]]:
    """Start Redis, a proxy, and behind each of its slots a link to a guarded model."""
    redis = start_redis(folder, free_port())
    running.callback(redis.stop)
    store = redis.store()
    running.callback(store.close)
    vllm = running.enter_context(serve_vllm(FakeVLLM(("unused",), "unused")))
    environment = ProxyEnvironment(folder, redis.port, redis.password, store, free_ports(SLOTS), vllm)
    links = []
    for slot in range(SLOTS):
        name, model, port = f"bouchet-cut-{slot}", f"cut{slot}", free_port()
        fake = FakeVLLM((model,), serving_key(SERVING_SECRET, name), WINDOW, NODE_PORT)
        server = running.enter_context(serve_guarded(fake, port))
        links.append((server, running.enter_context(CuttingRelay(environment.slot_base_port + slot, port))))
        record = make_deployment(model, f"org/{model}", slot=slot)
        job = record.jobs[0].model_copy(update={"name": name, "resumes": 1})
        store.create(record.model_copy(update={"jobs": (job,)}))
    # what is asked while a link is down is held, as in service
    held = {"hold_starting_s": 900.0, "hold_tunnel_s": 900.0}
    proxy = running.enter_context(run_app(environment, **held))
    wait_for(lambda: len(_names(proxy)) == SLOTS)
    return proxy, links


def _names(proxy: RunningProxy) -> list[str]:
    response = httpx.get(f"{proxy.url}/v1/models", headers=OWNER, verify=NO_TLS)
    return [one["id"] for one in response.json()["data"]]


def main() -> int:
    """Return 1 if a target is missed."""
    given = [float(value) for value in sys.argv[1:]]
    figures = soak(given[0] if given else SOAK_S, given[1] if len(given) > 1 else LONGEST_S)
    print(render(figures))
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
