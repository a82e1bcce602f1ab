"""Starts one stack for all tests of this folder, through `make up`, and removes it afterwards.

BOUCHET_TEST_KEEP=1 leaves it running, and the next run finds it there.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.harness import Finished, Stack, open_stack, say
from tests.stack.relay import Relay, open_relay

SMALL = "bouchet-smollm2"
SCRIPTED = "bouchet-scripted"


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Collect garbage after each module, so that a resource left open fails that module and no later one."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def first_up() -> Iterator[tuple[Stack, Finished]]:
    """Start the stack, and yield it with the output of its first `make up`."""
    stack = open_stack()
    say("stack: make up (builds what is missing; minutes the first time)")
    started = time.monotonic()
    finished = stack.make("up")
    say(f"stack: make up took {time.monotonic() - started:.0f} s")
    try:
        assert finished.status == 0, finished.output
        yield stack, finished
    finally:
        if not os.environ.get("BOUCHET_TEST_KEEP"):
            stack.remove()
        stack.close()


@pytest.fixture(scope="session")
def stack(first_up: tuple[Stack, Finished]) -> Stack:
    """Return a running stack whose demo model answers."""
    return first_up[0]


@pytest.fixture(scope="module")
def scripted(stack: Stack) -> dict[str, Any]:
    """Return a ready deployment of the scripted model; it is launched if there is none."""
    if not any(SCRIPTED in record["names"] for record in stack.deployments()):
        done = stack.bouchet("launch", "demo/scripted", "--partition", "gpu_h200", "--no-wait", "--json")
        assert done.status == 0, done.output
    return stack.wait_for_phase(SCRIPTED, "ready")


@pytest.fixture(scope="module")
def room(stack: Stack) -> None:
    """End the scripted model, so that each node has a free GPU."""
    for record in stack.deployments():
        if SCRIPTED in record["names"]:
            stack.bouchet("cancel", record["id"])
            stack.wait_for_phase(record["id"], "ended", timeout_s=180)


@pytest.fixture
def relay(stack: Stack) -> Iterator[Relay]:
    """Yield a relay between a client and the proxy; the test fails if a stream was illegal."""
    with open_relay(stack.proxy_url) as relay:
        yield relay
