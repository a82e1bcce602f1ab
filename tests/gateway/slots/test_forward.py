"""Slots: where connections lead, how long they are held, and how clients are refused."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from bouchet_core.errors import RemoteFileError, TunnelDownError
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.store import Store
from bouchet_core.tunnel import SlotTarget, TargetSigner, TunnelState
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits
from bouchet_gateway.slots import forward
from bouchet_gateway.slots.forward import refusal

from tests.conftest import GATEWAY_TOKEN, RedisServer, free_job_port
from tests.gateway.login_node import LoginNode
from tests.gateway.running import (
    REQUEST,
    connected,
    echo,
    serve_behind,
    started,
    talk,
    tcp_server,
    wait_for_state,
    wait_until,
)


def parse_refusal(response: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the status line and the JSON body of a refusal."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    return head.splitlines()[0], json.loads(body)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection with a TCP reset, as a killed client does."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def becomes(port: int, data: bytes, answer: bytes) -> None:
    """Wait until the slot answers `data` with `answer`."""
    async with asyncio.timeout(30):
        while await talk(port, data) != answer:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_slot_without_target_refuses_at_once(login_node: LoginNode, store: Store) -> None:
    async with started(login_node, store, limits=GatewayLimits(hold_s=600)) as gateway:
        status, body = parse_refusal(await talk(gateway.forwarder.ports[1], REQUEST))
    assert (status, body["kind"]) == (b"HTTP/1.1 503 Service Unavailable", "no_target")


@pytest.mark.parametrize(
    ("signer", "port_changes", "reason"),
    [
        (None, False, "no valid signature"),
        (TargetSigner("another-token"), False, "no valid signature"),
        (TargetSigner(GATEWAY_TOKEN), True, "its port is not one of"),
    ],
)
async def test_slot_forged_target_is_refused_and_logged(
    login_node: LoginNode,
    store: Store,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    signer: TargetSigner | None,
    port_changes: bool,
    reason: str,
) -> None:
    """Whoever can write to Redis cannot have the gateway connect to a host and port of their choice."""
    async with connected(login_node, store) as gateway, tcp_server(echo) as port:
        target = SlotTarget(node="127.0.0.1", port=login_node.port if port_changes else port, deployment="d0")
        forged = signer.signed(0, target) if signer else target
        with redis.Redis("127.0.0.1", redis_server.port, password=redis_server.password) as raw:
            raw.hset("bouchet:targets", "0", forged.model_dump_json())
        status, body = parse_refusal(await talk(gateway.forwarder.ports[0], REQUEST))
    assert (status, body["kind"]) == (b"HTTP/1.1 503 Service Unavailable", "no_target")
    assert reason in body["detail"] and reason in caplog.text
    assert login_node.channels == 0


async def test_slot_refusal_reaches_http_client_with_large_request(login_node: LoginNode, store: Store) -> None:
    async with started(login_node, store) as gateway, httpx.AsyncClient(verify=NO_TLS) as client:
        url = f"http://127.0.0.1:{gateway.forwarder.ports[1]}/v1/messages"
        answer = await client.post(url, content=b"x" * 300_000)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "slot 1" in answer.json()["error"]["message"]


async def test_slot_closed_port_refuses_with_remote_refused(gateway: Gateway, store: Store) -> None:
    serve_behind(store, 0, free_job_port())
    _, body = parse_refusal(await talk(gateway.forwarder.ports[0], REQUEST))
    assert body["kind"] == "remote_refused"


async def test_slot_moved_job_is_followed(gateway: Gateway, store: Store, echo_slot: int) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"moved")
        writer.close()

    assert await talk(echo_slot, b"x") == b"x"
    async with tcp_server(other) as port:
        record = store.get("d0")
        assert record.job is not None
        store.save(record.with_job(record.job.model_copy(update={"port": port}), record.updated_at))
        await becomes(echo_slot, b"x", b"moved")


async def test_slot_holds_connections_until_ssh_is_back(
    gateway: Gateway, login_node: LoginNode, echo_slot: int
) -> None:
    await login_node.stop()
    await wait_for_state(gateway, TunnelState.DOWN)
    held = [asyncio.create_task(talk(echo_slot, b"held %d" % n)) for n in range(16)]
    await wait_until(lambda: gateway.forwarder.clients == 16)
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in held)
    await login_node.start()
    assert await asyncio.gather(*held) == [b"held %d" % n for n in range(16)]
    assert (gateway.tunnel.status().reconnects, login_node.accepted) == (1, 2)


async def test_slot_refuses_held_connection_after_hold_s(login_node: LoginNode, store: Store) -> None:
    serve_behind(store, 0, free_job_port())
    await login_node.stop()
    async with started(login_node, store, limits=GatewayLimits(hold_s=0.3)) as gateway:
        _, body = parse_refusal(await talk(gateway.forwarder.ports[0], REQUEST))
    assert body["kind"] == "tunnel_down"
    await login_node.start()


async def test_slot_client_reset_while_held_opens_no_channel(
    gateway: Gateway, login_node: LoginNode, echo_slot: int
) -> None:
    await login_node.stop()
    await wait_for_state(gateway, TunnelState.DOWN)
    _, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
    writer.write(REQUEST)
    await wait_until(lambda: gateway.forwarder.clients == 1)
    # a killed client resets its connection; one that only sent EOF is still served
    reset(writer)
    await wait_until(lambda: gateway.forwarder.clients == 0)
    await login_node.start()
    await wait_for_state(gateway, TunnelState.UP)
    await asyncio.sleep(0.1)
    assert login_node.channels == 0


async def send_through(port: int, data: bytes) -> bytes:
    """Send the data and EOF over a plain socket, whose buffers are the kernel's; return what comes back."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        sending = asyncio.ensure_future(loop.sock_sendall(sock, data))
        received = bytearray()
        while len(received) < len(data) and (chunk := await loop.sock_recv(sock, 1 << 20)):
            received += chunk
        sending.cancel()
        return bytes(received)


@pytest.mark.slow
async def test_slot_early_bytes_of_all_clients_stay_within_the_budget(login_node: LoginNode, store: Store) -> None:
    data = bytes(511 << 10)
    limits = GatewayLimits(early_bytes=4 << 20)
    async with connected(login_node, store, limits=limits) as gateway, tcp_server(echo) as port:
        for slot, target in enumerate(gateway.forwarder.ports):
            serve_behind(store, slot, port)
            assert await talk(target, b"x") == b"x"
        await login_node.stop()
        await wait_for_state(gateway, TunnelState.DOWN)
        tracemalloc.start()
        try:
            waiting = [asyncio.create_task(send_through(p, data)) for p in gateway.forwarder.ports * 40]
            await wait_until(lambda: gateway.forwarder.clients == len(waiting))
            await asyncio.sleep(0.5)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 1 << 20 < held < 8 << 20
        # those that were not read lose nothing
        await login_node.start()
        assert [len(answer) for answer in await asyncio.gather(*waiting)] == [len(data)] * len(waiting)
        assert gateway.forwarder._early._free == 4 << 20


async def test_slot_client_without_early_bytes_is_refused_with_the_reason(login_node: LoginNode, store: Store) -> None:
    serve_behind(store, 0, free_job_port())
    await login_node.stop()
    async with started(login_node, store, limits=GatewayLimits(hold_s=0.3, early_bytes=0)) as gateway:
        _, body = parse_refusal(await talk(gateway.forwarder.ports[0], REQUEST))
    assert body["kind"] == "tunnel_down"
    await login_node.start()


async def test_slot_over_connection_limit_refuses_until_one_closes(login_node: LoginNode, store: Store) -> None:
    limits = GatewayLimits(connections_per_slot=2)
    async with started(login_node, store, limits=limits) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, port)
        kept = [await asyncio.open_connection("127.0.0.1", gateway.forwarder.ports[0]) for _ in range(2)]
        _, body = parse_refusal(await talk(gateway.forwarder.ports[0], REQUEST))
        for _, writer in kept:
            writer.close()
        assert (body["kind"], "2 connections" in body["detail"]) == ("tunnel_down", True)
        await wait_until(lambda: gateway.forwarder.clients < 2)
        assert await talk(gateway.forwarder.ports[0], b"again") == b"again"


async def test_slot_refused_client_after_eof_frees_its_place(
    login_node: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "REFUSAL_TIMEOUT_S", 3600)
    limits = GatewayLimits(connections_per_slot=1)
    async with started(login_node, store, limits=limits) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, port)
        slot = gateway.forwarder.ports[0]
        _, kept = await asyncio.open_connection("127.0.0.1", slot)
        reader, refused = await asyncio.open_connection("127.0.0.1", slot)
        refused.write(REQUEST)
        parse_refusal(await reader.read())
        refused.write_eof()
        kept.close()
        await becomes(slot, b"again", b"again")
        refused.close()


async def test_targets_store_down_last_target_is_used(
    login_node: LoginNode, store: Store, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "TARGET_TTL_S", 0.05)
    async with connected(login_node, store) as gateway, tcp_server(echo) as port:
        serve_behind(store, 0, port)
        assert await talk(gateway.forwarder.ports[0], b"before") == b"before"
        redis_server.stop()
        await asyncio.sleep(0.1)
        assert await talk(gateway.forwarder.ports[0], b"after") == b"after"


async def test_targets_store_down_and_none_known_refuses(
    login_node: LoginNode, store: Store, redis_server: RedisServer
) -> None:
    async with started(login_node, store) as gateway:
        redis_server.stop()
        _, body = parse_refusal(await talk(gateway.forwarder.ports[1], REQUEST))
    assert body["kind"] == "store_unavailable"


@pytest.mark.slow
async def test_slot_thousand_connections_leak_nothing(gateway: Gateway, echo_slot: int, login_node: LoginNode) -> None:
    async def send_and_reset() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
        writer.write(b"x" * 4000)
        reset(writer)

    await talk(echo_slot, b"x")
    await wait_until(lambda: gateway.forwarder.channels == 0)
    before = open_descriptors()
    for _ in range(20):
        await asyncio.gather(*(talk(echo_slot, b"x") for _ in range(40)), *(send_and_reset() for _ in range(10)))
    await wait_until(lambda: gateway.forwarder.channels == 0 and open_descriptors() <= before)
    gc.collect()
    # the tasks of the gateway, of asyncssh's connections, and this test
    names = [repr(task.get_coro()) for task in asyncio.all_tasks()]
    assert len(names) < 10, names
    # the channels in asyncssh's tables, at both ends
    session = await gateway.tunnel.session(1)
    connections: list[Any] = [session._connection, *login_node.connections]
    await wait_until(lambda: not [c for c in connections if len(c._channels) > 1])


async def test_slot_client_reset_while_connecting_leaves_no_channel(gateway: Gateway, echo_slot: int) -> None:
    async def send_and_reset(after_s: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
        writer.write(REQUEST)
        await asyncio.sleep(after_s)
        reset(writer)

    for _ in range(5):
        await asyncio.gather(*(send_and_reset(0.0002 * n) for n in range(50)))
    await wait_until(lambda: gateway.forwarder.channels == 0)


async def test_traffic_counts_open_and_closed_connections(gateway: Gateway, echo_slot: int) -> None:
    before = gateway.forwarder.traffic
    assert len(await talk(echo_slot, b"x" * 10_000)) == 10_000
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_slot)
    writer.write(b"y" * 500)
    assert len(await reader.readexactly(500)) == 500
    now = gateway.forwarder.traffic
    assert (now.up - before.up, now.down - before.down) == (10_500, 10_500)
    writer.close()
    await wait_until(lambda: gateway.forwarder.channels == 0)
    assert gateway.forwarder.traffic == now


@pytest.mark.parametrize("error", [TunnelDownError("ü"), RemoteFileError("x")])
def test_refusal_has_kind_and_detail_of_error(error: TunnelDownError | RemoteFileError) -> None:
    _, body = parse_refusal(refusal(error))
    assert (body["kind"], body["detail"], body["status"]) == (error.kind, str(error), 503)
