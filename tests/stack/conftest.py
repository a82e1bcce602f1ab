"""Starts one stack for all tests of this folder, through `make up`, and removes it afterwards.

BOUCHET_TEST_KEEP=1 leaves it running, and the next run finds it there.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from .harness import ENV_FILE, Finished, Stack, say

SMALL = "bouchet-smollm2"
SCRIPTED = "bouchet-scripted"


@pytest.fixture(scope="session")
def first_up() -> Iterator[tuple[Stack, Finished]]:
    """The stack, and what its first `make up` printed."""
    stack = Stack(*_ports())
    say("stack: make up (builds what is missing; minutes the first time)")
    finished = stack.make("up")
    try:
        assert finished.status == 0, finished.output
        yield stack, finished
    finally:
        if not os.environ.get("BOUCHET_TEST_KEEP"):
            _remove(stack)


@pytest.fixture(scope="session")
def stack(first_up: tuple[Stack, Finished]) -> Stack:
    """A running stack whose demo model answers."""
    return first_up[0]


@pytest.fixture(scope="session")
def scripted(stack: Stack) -> dict[str, Any]:
    """A deployment of the model that says what the prompt scripts, ready, launched by hand."""
    if not any(SCRIPTED in record["names"] for record in stack.deployments()):
        done = stack.bouchet("launch", "demo/scripted", "--partition", "gpu_h200", "--no-wait", "--json")
        assert done.status == 0, done.output
    return stack.wait_for_phase(SCRIPTED, "ready")


def _ports() -> tuple[int, int]:
    """The stack's ports: those of its .env, chosen free and written there the first time."""
    if ENV_FILE.exists():
        found = dict(re.findall(r"^(PROXY_PORT|API_PORT)=(\d+)$", ENV_FILE.read_text(), re.M))
        return int(found["PROXY_PORT"]), int(found["API_PORT"])
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], two.getsockname()[1]
    stack = Stack(*ports)
    done = stack.make("env")
    assert done.status == 0, done.output
    text = ENV_FILE.read_text()
    for name, port in zip(("PROXY_PORT", "API_PORT"), ports, strict=True):
        text = re.sub(rf"^{name}=.*$", f"{name}={port}", text, flags=re.M)
    ENV_FILE.write_text(text)
    return ports


def _remove(stack: Stack) -> None:
    """Volumes and containers of this stack; the images and the software that all stacks share stay."""
    done = stack.make("remove", timeout_s=120)
    assert done.status == 0, done.output
    ENV_FILE.unlink(missing_ok=True)
