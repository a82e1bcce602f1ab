"""Faults of the link to the cluster, such as a laptop that sleeps or an sshd that ends, and answers over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.proxy.stream_checker import check_stream
from tests.stack.harness import PROJECT, Stack
from tests.stack.job_faults import Stream

# an answer of some seconds
LONG = "COUNT[1500]"
PAUSE_S = 4.0


@contextmanager
def paused(stack: Stack) -> Iterator[None]:
    """Stop the gateway, as a laptop that sleeps does: its connections stay open, and nothing passes."""
    container = stack.container("gateway")
    container.pause()
    try:
        yield
    finally:
        container.unpause()


def pause(stack: Stack) -> None:
    with paused(stack):
        time.sleep(PAUSE_S)


def unplug(stack: Stack) -> None:
    """Take the network away for longer than a dead connection stays unnoticed."""
    uplink = next(n for n in stack.docker.networks.list() if n.name == f"{PROJECT}_uplink")
    gateway = stack.container("gateway")
    uplink.disconnect(gateway)
    time.sleep(PAUSE_S)
    uplink.connect(gateway)


def kill_sshd(stack: Stack) -> None:
    """End the server's side of the SSH connection, as an sshd that is restarted by a script that kills all."""
    assert stack.on("demo-login", ["pkill", "-KILL", "-u", "researcher", "sshd"]).status == 0


def restart(stack: Stack) -> None:
    stack.container("gateway").restart(timeout=5)


def text_of(body: bytes) -> str:
    events = check_stream("/v1/messages", body)
    return "".join(event.json()["delta"].get("text", "") for event in events if event.name == "content_block_delta")


def check_answers_with_a_cut(stack: Stack, model: str, fault: Callable[[Stack], None], script: str = LONG) -> None:
    """Check that answers under way at a fault are whole, and those that are given without one."""
    streams = [Stream(stack, model, script).under_way() for _ in range(2)]
    fault(stack)
    uncut = Stream(stack, model, script)
    assert {one.last(timeout_s=120) for one in (*streams, uncut)} == {"message_stop"}
    assert {text_of(one.body) for one in streams} == {text_of(uncut.body)}
