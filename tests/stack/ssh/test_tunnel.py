"""What happens to the one connection in real life: silence, restarts, new host keys, second factors."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_core.tunnel import TunnelState, TunnelStatus

from tests.stack.conftest import SMALL
from tests.stack.harness import ROOT, Stack
from tests.stack.ssh.own_tunnel import PASSCODE, trust_the_host, tunnel_as, until
from tests.waiting import wait_for

# keepalives say so after 6 s; the rest is for a busy machine
NOTICED_S, BACK_S = 60.0, 60.0
ASKERS, CUTS = 4, 4
SSH_PORT, ESTABLISHED = ":0016", "01"


def tunnel_state(stack: Stack) -> dict[str, Any]:
    with stack.api() as api:
        return dict(api.get("/v1/tunnel").raise_for_status().json())


def wait_for_tunnel(stack: Stack, *, up: bool, within_s: float) -> float:
    """Return the seconds until the tunnel is up, or down."""
    began = time.monotonic()
    wait_for(lambda: (tunnel_state(stack)["state"] == "up") is up, within_s, lambda: str(tunnel_state(stack)))
    return time.monotonic() - began


def ask(stack: Stack) -> int:
    """Return the status of a short request."""
    body = {"model": SMALL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    with stack.proxy() as proxy:
        return proxy.post("/v1/messages", json=body).status_code


def last_event(stack: Stack, begun: Callable[[], object]) -> str:
    """Read a long stream to its end and return the type of the last event; `begun` is called at the first."""
    # without temperature it says the same every time: 350 tokens
    body = {"model": SMALL, "max_tokens": 600, "stream": True, "temperature": 0}
    body["messages"] = [{"role": "user", "content": "Write a long story about the sea."}]
    last = ""
    with stack.proxy() as proxy, proxy.stream("POST", "/v1/messages", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: "):
                _ = begun() if not last else None
                last = str(json.loads(line[6:])["type"])
    return last


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(ASKERS + 1) as pool:
        yield pool


@pytest.fixture
def stream(stack: Stack, clients: ThreadPoolExecutor) -> Future[str]:
    """Start a stream; its result is its last event."""
    started: Future[None] = Future()
    found = clients.submit(last_event, stack, lambda: started.set_result(None))
    started.result(timeout=60)
    return found


@pytest.fixture(autouse=True)
def one_connection_afterwards(stack: Stack) -> Iterator[None]:
    wait_for_tunnel(stack, up=True, within_s=60)
    yield
    wait_for_tunnel(stack, up=True, within_s=60)
    wait_for(lambda: len(connections(stack)) == 1, 30, lambda: "\n".join(connections(stack)))


def connections(stack: Stack) -> list[str]:
    """Return the gateway's connections to SSH servers, as its kernel lists them.

    The login node may have others: of an address that the gateway had in an earlier test, until sshd misses it.
    """
    rows = [line.split() for line in stack.on("gateway", ["cat", "/proc/net/tcp"]).stdout.splitlines()]
    return [" ".join(row[1:4]) for row in rows if row[2].endswith(SSH_PORT) and row[3] == ESTABLISHED]


def test_tunnel_silent_login_node_is_noticed_and_requests_wait(
    stack: Stack, clients: ThreadPoolExecutor, stream: Future[str]
) -> None:
    login = stack.container("demo-login")
    login.pause()
    try:
        wait_for_tunnel(stack, up=False, within_s=NOTICED_S)
        asked = [clients.submit(ask, stack) for _ in range(ASKERS)]
        time.sleep(2)
        assert not any(one.done() for one in asked)
    finally:
        login.unpause()
    wait_for_tunnel(stack, up=True, within_s=BACK_S)
    assert [one.result(timeout=60) for one in asked] == [200] * ASKERS
    assert stream.result(timeout=120) == "message_stop", "the answer goes on when the link is back"


def test_tunnel_restarted_login_node_reconnects_once(
    stack: Stack, clients: ThreadPoolExecutor, stream: Future[str]
) -> None:
    before = tunnel_state(stack)["reconnects"]
    stack.container("demo-login").restart(timeout=2)
    asked = [clients.submit(ask, stack) for _ in range(ASKERS)]
    assert [one.result(timeout=60) for one in asked] == [200] * ASKERS
    assert stream.result(timeout=120) == "message_stop", "the answer goes on when the link is back"
    wait_for_tunnel(stack, up=True, within_s=BACK_S)
    assert tunnel_state(stack)["reconnects"] == before + 1
    stack.wait_healthy("demo-login")


def test_tunnel_frozen_gateway_recovers(stack: Stack, clients: ThreadPoolExecutor, stream: Future[str]) -> None:
    """Simulate a laptop's lid that is closed for a moment."""
    gateway = stack.container("gateway")
    gateway.pause()
    try:
        asked = [clients.submit(ask, stack) for _ in range(ASKERS)]
        time.sleep(4)
    finally:
        gateway.unpause()
    assert [one.result(timeout=60) for one in asked] == [200] * ASKERS
    assert stream.result(timeout=120) == "message_stop"
    stack.wait_healthy("gateway")


def test_local_port_leads_to_vllm(stack: Stack) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [str(ROOT / "bouchet"), "tunnel", "--port", str(port), "--model", SMALL]
    with subprocess.Popen(argv, env=stack.environ, cwd=ROOT, stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        assert f"http://127.0.0.1:{port} forwards to the vLLM of {SMALL}" in command.stderr.readline()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as tool:
                assert SMALL in [line["id"] for line in tool.get("/v1/models").raise_for_status().json()["data"]]
                assert "version" in tool.get("/version").raise_for_status().json()
                assert "vllm:" in tool.get("/metrics").raise_for_status().text
                body = {"model": SMALL, "prompt": "The sea", "max_tokens": 8, "stream": True}
                with tool.stream("POST", "/v1/completions", json=body) as answer:
                    lines = [line for line in answer.iter_lines() if line]
                assert lines[-1] == "data: [DONE]" and len(lines) > 2
                # the job's key stays on the proxy's side
                assert httpx.get(f"{stack.proxy_url}/passthrough/{SMALL}/v1/models", timeout=30).status_code == 401
        finally:
            command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130


async def test_host_key_unknown_is_trusted_by_fingerprint(stack: Stack, tmp_path: Path) -> None:
    async with tunnel_as(stack, "researcher", tmp_path) as (tunnel, _):
        await until(lambda: tunnel.status().state is TunnelState.REFUSED, tunnel.status)
        await trust_the_host(stack, tunnel)
        await until(lambda: tunnel.status().state is TunnelState.UP, tunnel.status)
    async with tunnel_as(stack, "researcher", tmp_path) as (tunnel, _):
        await until(lambda: tunnel.status().state is TunnelState.UP, tunnel.status)


async def test_mfa_prompts_once_per_reconnect(stack: Stack, tmp_path: Path) -> None:
    since = int(time.time())
    shown: set[str] = set()

    def on_change(status: TunnelStatus) -> None:
        shown.update([status.prompt.id] if status.prompt else [])

    async with tunnel_as(stack, "guarded", tmp_path, on_change=on_change) as (tunnel, broker):
        await trust_the_host(stack, tunnel)
        for cut in range(CUTS + 1):
            await until(lambda: broker.prompt is not None, tunnel.status)
            assert broker.prompt is not None and "Passcode or option" in broker.prompt.questions[0]
            broker.answer(broker.prompt.id, [PASSCODE])
            await until(lambda: tunnel.status().state is TunnelState.UP, tunnel.status)
            # nothing more is asked while it is up
            await asyncio.sleep(0.3)
            assert broker.prompt is None
            if cut < CUTS:
                await asyncio.to_thread(stack.on, "demo-login", ["pkill", "-KILL", "-u", "guarded"])
                await until(lambda: tunnel.status().state is not TunnelState.UP, tunnel.status)
    assert len(shown) == CUTS + 1
    log = await asyncio.to_thread(stack.container("demo-login").logs, since=since)
    assert log.decode().count("Accepted keyboard-interactive/pam for guarded") == CUTS + 1
