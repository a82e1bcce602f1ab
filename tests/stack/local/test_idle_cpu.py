"""Idle containers use no CPU: with nothing to do, and after each kind of request that a client can make.

What is asked together runs at the same time, each on a connection of its own, so that none repairs what
another left behind.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.stack.conftest import SCRIPTED, SMALL
from tests.stack.harness import LOCAL_SERVICES, ROOT, Stack
from tests.waiting import wait_for

SETTLE_S = 3.0
# two periods of the slowest health check
WATCHED_S = 12.0
MOST = 0.02  # of a core, on a quiet machine
# how many times the CPU time of its repetition a piece of work takes after a pause, on a quiet machine
AFTER_PAUSE = 3.0
PAUSE_S, REPEATED = 0.025, 200
TEXT = "COUNT[40]"

Ask = Callable[[Stack], None]


def cpu_shares(stack: Stack, seconds: float) -> tuple[dict[str, float], float]:
    """Measure which share of a core each local container uses over that time, and what the machine adds to it."""
    before = {service: stack.cpu_s(service) for service in LOCAL_SERVICES}
    began = time.monotonic()
    factor = wake_up_factor(seconds)
    used = {service: stack.cpu_s(service) - spent for service, spent in before.items()}
    return {service: spent / (time.monotonic() - began) for service, spent in used.items()}, factor


def wake_up_factor(seconds: float) -> float:
    """Measure how much more CPU time a wake-up takes now than on a quiet machine: 1 or more.

    Where others use the same caches, what a service does after each pause takes several times as long.
    """
    times = 0
    until, began = time.monotonic() + seconds, time.thread_time()
    while time.monotonic() < until:
        some_work()
        times += 1
        time.sleep(PAUSE_S)
    after_pause = (time.thread_time() - began) / times
    began = time.thread_time()
    for _ in range(REPEATED):
        some_work()
    repeated = (time.thread_time() - began) / REPEATED
    return max(1.0, after_pause / repeated / AFTER_PAUSE)


def some_work() -> None:
    """Run a little of much code, as a service does that wakes up."""
    re.purge()
    re.compile(r"(?:a|b)+c{2,3}[^x-z]\w*(?P<number>\d+)")
    json.loads(json.dumps({"a": [1, 2.5, None, "x" * 40] * 10}))
    datetime.strptime("2026-01-02 03:04:05Z", "%Y-%m-%d %H:%M:%S%z")


def is_idle(stack: Stack, seconds: float) -> bool:
    shares, factor = cpu_shares(stack, seconds)
    return max(shares.values()) < MOST * factor


def assert_idle(stack: Stack) -> None:
    """Fail if a container uses more than MOST of a core, on a machine as busy as this one is."""
    shares, factor = cpu_shares(stack, WATCHED_S)
    shown = ", ".join(f"{service} {share:.1%}" for service, share in shares.items())
    shown += f"; at most {MOST * factor:.1%}"
    print(f"idle: {shown}")
    assert max(shares.values()) < MOST * factor, shown


def chat(model: str = SCRIPTED, **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 200, "messages": [{"role": "user", "content": TEXT}], **fields}


def asks(path: str, body: dict[str, Any] | None = None, *, status: int = 200) -> Ask:
    """Return a request that is read to its end; a GET without a body."""

    def ask(stack: Stack) -> None:
        with stack.proxy() as proxy:
            response = proxy.get(path) if body is None else proxy.post(path, json=body)
        assert response.status_code == status, response.text

    return ask


def hangs_up(path: str) -> Ask:
    """Return a stream whose client goes away after the first bytes."""

    def ask(stack: Stack) -> None:
        body = chat(stream=True, max_tokens=4000, messages=[{"role": "user", "content": "COUNT[2000]"}])
        with stack.proxy() as proxy, proxy.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            next(response.iter_raw())

    return ask


def follows_logs(stack: Stack) -> None:
    """Run `bouchet logs -f` until its first line, then end it as Ctrl-C does."""
    argv = [str(ROOT / "bouchet"), "logs", "-f", SMALL]
    with subprocess.Popen(argv, env=stack.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        process.stdout.read()


PASSTHROUGH = f"/passthrough/{SCRIPTED}"
PROMPT = {"model": SCRIPTED, "prompt": TEXT, "max_tokens": 50}
INPUT = {"model": SCRIPTED, "input": TEXT, "max_output_tokens": 50}
KINDS: dict[str, list[Ask]] = {
    "messages, chat streamed, models": [
        asks("/v1/messages", chat()),
        asks("/v1/chat/completions", chat(stream=True)),
        asks("/v1/models"),
    ],
    "messages streamed, chat": [asks("/v1/messages", chat(stream=True)), asks("/v1/chat/completions", chat())],
    "completions, responses streamed, passthrough GET": [
        asks("/v1/completions", PROMPT),
        asks("/v1/responses", {**INPUT, "stream": True}),
        asks(f"{PASSTHROUGH}/v1/models"),
    ],
    "completions streamed, responses, passthrough POST": [
        asks("/v1/completions", {**PROMPT, "stream": True}),
        asks("/v1/responses", INPUT),
        asks(f"{PASSTHROUGH}/tokenize", {"model": SCRIPTED, "prompt": TEXT}),
    ],
    "count_tokens": [asks("/v1/messages/count_tokens", chat())],
    "embeddings, unknown model": [
        asks("/v1/embeddings", {"model": SCRIPTED, "input": "a"}, status=400),
        asks("/v1/messages", chat("no-such-model"), status=404),
    ],
    "streams hung up": [hangs_up("/v1/messages"), hangs_up("/v1/chat/completions")],
    "logs -f": [follows_logs],
}


@pytest.mark.usefixtures("scripted")
def test_idle_stack_uses_no_cpu(stack: Stack) -> None:
    wait_for(lambda: is_idle(stack, 2), 60)
    assert_idle(stack)


def ask_together(stack: Stack, kind: str) -> None:
    """Send all requests of a kind at the same time."""
    with ThreadPoolExecutor() as clients:
        for asked in [clients.submit(ask, stack) for ask in KINDS[kind]]:
            asked.result()
    time.sleep(SETTLE_S)


@pytest.mark.usefixtures("scripted")
def test_stack_after_all_requests_uses_no_cpu(stack: Stack) -> None:
    for kind in KINDS:
        ask_together(stack, kind)
    assert_idle(stack)


@pytest.mark.long
@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("kind", KINDS)
def test_stack_after_request_uses_no_cpu(stack: Stack, kind: str) -> None:
    ask_together(stack, kind)
    assert_idle(stack)


def test_proxy_runs_on_uvloop(stack: Stack) -> None:
    lines = stack.container("proxy").logs().decode().splitlines()
    assert [line for line in lines if "serving" in line and line.endswith("on uvloop")], lines[:10]


def test_client_that_stays_connected_uses_no_cpu(stack: Stack) -> None:
    with httpx.Client(base_url=stack.proxy_url, headers={"x-api-key": stack.key}) as client:
        assert client.get("/v1/models").status_code == 200
        time.sleep(SETTLE_S)
        assert_idle(stack)
