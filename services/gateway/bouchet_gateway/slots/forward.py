"""The slots: fixed ports that lead to wherever their deployment runs now.

The target is looked up when a connection is accepted, so its clients notice no move of the job. While SSH is down a new
connection is held for a while instead of refused; one that cannot be served gets an HTTP 503 with an error body.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from bouchet_core.errors import BouchetError, RemoteFileError, StoreUnavailableError, TunnelDownError
from bouchet_core.store import Store
from bouchet_core.tunnel import SlotTarget, TargetSigner

from bouchet_gateway.errors import NoTargetError, problem_document
from bouchet_gateway.settings import GatewayLimits
from bouchet_gateway.ssh.tunnel import Tunnel

from .relay import EarlyBudget, RelayEnd

log = logging.getLogger(__name__)

OpenChannel = Callable[[SlotTarget, Callable[[], asyncio.Protocol], float], Awaitable[None]]

TARGET_TTL_S = 0.5
STORE_TIMEOUT_S = 1.0
# while the store does not answer, it is not asked for every connection
STALE_TTL_S = 2.0
BACKLOG = 512
# how long a refused client may take to send its request and to read the response
REFUSAL_TIMEOUT_S = 5.0
RETRY_INTERVAL_S = 0.05


@dataclass
class _CachedTarget:
    target: SlotTarget | None
    expires_at: float


@dataclass(frozen=True)
class SlotTraffic:
    """Bytes sent to the cluster, and received from it."""

    up: int
    down: int


class SlotTargets:
    """Where the slots lead: read from the store at most twice a second for each slot, and checked by the signer."""

    def __init__(self, store: Store, signer: TargetSigner) -> None:
        self._store, self._signer = store, signer
        self._cached: dict[int, _CachedTarget] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    async def find(self, slot: int) -> SlotTarget:
        """Return the slot's target, or raise NoTargetError. While the store is down, the last known one counts."""
        async with self._locks.setdefault(slot, asyncio.Lock()):
            cached = self._cached.get(slot)
            if cached is None or cached.expires_at <= asyncio.get_running_loop().time():
                cached = await self._read(slot, cached)
        if cached.target is None:
            raise NoTargetError(f"no model is running on slot {slot}; `bouchet status` lists what runs")
        if problem := self._signer.problem(slot, cached.target):
            raise NoTargetError(f"the target of slot {slot} is refused: {problem}")
        return cached.target

    async def _read(self, slot: int, last: _CachedTarget | None) -> _CachedTarget:
        ttl_s = TARGET_TTL_S
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                target = await asyncio.to_thread(self._store.slot_target, slot)
        except (StoreUnavailableError, TimeoutError) as exc:
            if last is None or last.target is None:
                raise _store_error(exc) from exc
            target, ttl_s = last.target, STALE_TTL_S
        cached = self._cached[slot] = _CachedTarget(target, asyncio.get_running_loop().time() + ttl_s)
        return cached


def _store_error(exc: Exception) -> StoreUnavailableError:
    if isinstance(exc, StoreUnavailableError):
        return exc
    return StoreUnavailableError(f"no answer within {STORE_TIMEOUT_S:g} s")


class SlotForwarder:
    """Listeners for all slots. `ports` has their ports after `start`; base port 0 lets the system choose (tests)."""

    def __init__(self, tunnel: Tunnel, targets: SlotTargets, limits: GatewayLimits) -> None:
        self._tunnel, self._targets, self._limits = tunnel, targets, limits
        self._early = EarlyBudget(limits.early_bytes)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: dict[int, set[RelayEnd]] = {}
        self._channels: set[RelayEnd] = set()
        self._logged: dict[int, str] = {}
        self._ended = SlotTraffic(0, 0)
        self.ports: list[int] = []

    @property
    def channels(self) -> int:
        """The number of open channels."""
        return len(self._channels)

    @property
    def clients(self) -> int:
        """The number of connected clients, those that wait for a channel included."""
        return sum(len(clients) for clients in self._clients.values())

    @property
    def traffic(self) -> SlotTraffic:
        """Bytes forwarded since the start."""
        up = self._ended.up + sum(client.bytes_received for client in self._all_clients())
        return SlotTraffic(up, self._ended.down + sum(channel.bytes_received for channel in self._channels))

    async def start(self, host: str, base_port: int, count: int) -> None:
        """Listen on base_port + n for every slot n."""
        loop = asyncio.get_running_loop()
        for slot in range(count):
            port = base_port + slot if base_port else 0
            server = await loop.create_server(partial(self._new_client, slot), host, port, backlog=BACKLOG)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and close all connections."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        for client in self._all_clients():
            client.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _all_clients(self) -> list[RelayEnd]:
        return [client for clients in self._clients.values() for client in clients]

    def _new_client(self, slot: int) -> asyncio.BaseProtocol:
        clients = self._clients.setdefault(slot, set())
        client = RelayEnd(on_end=lambda: self._client_ended(slot, client), budget=self._early)
        clients.add(client)
        task = asyncio.get_running_loop().create_task(self._serve(slot, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return client.protocol

    def _client_ended(self, slot: int, client: RelayEnd) -> None:
        self._clients[slot].discard(client)
        self._ended = SlotTraffic(self._ended.up + client.bytes_received, self._ended.down)

    def _channel_ended(self, channel: RelayEnd) -> None:
        self._channels.discard(channel)
        self._ended = SlotTraffic(self._ended.up, self._ended.down + channel.bytes_received)

    async def _serve(self, slot: int, client: RelayEnd) -> None:
        gone = asyncio.ensure_future(client.ended.wait())
        connecting = asyncio.ensure_future(self._connect(slot))
        joined = False
        try:
            await asyncio.wait({gone, connecting}, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                joined = True
                client.join(connecting.result())
                self._logged.pop(slot, None)
        except BouchetError as error:
            self._log_refusal(slot, error)
            await _refuse(client, error)
        except Exception:
            log.exception("slot=%d unexpected error", slot)
            client.reset()
        finally:
            gone.cancel()
            if not joined:
                connecting.add_done_callback(_close_unused_channel)
            connecting.cancel()

    def _log_refusal(self, slot: int, error: BouchetError) -> None:
        """Log equal refusals in a row once: health checks connect every few seconds while a model starts."""
        if self._logged.get(slot) != str(error):
            self._logged[slot] = str(error)
            log.warning("slot=%d refused kind=%s detail=%r", slot, error.kind, str(error))

    async def _connect(self, slot: int) -> RelayEnd:
        """Open a channel to the slot's target; wait out a lost SSH connection for a while."""
        if len(self._clients[slot]) > self._limits.connections_per_slot:
            raise TunnelDownError(
                f"slot {slot} has reached its limit of {self._limits.connections_per_slot} connections"
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.hold_s
        while True:
            # also before the wait, since a client should not wait for a slot without a target
            await self._targets.find(slot)
            session = await self._tunnel.session(deadline - loop.time(), wait_for_human=True)
            target = await self._targets.find(slot)
            try:
                return await self._open_channel(session.open_channel, target)
            except TunnelDownError:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def _open_channel(self, open_channel: OpenChannel, target: SlotTarget) -> RelayEnd:
        channel = RelayEnd(on_end=lambda: self._channel_ended(channel))
        await open_channel(target, lambda: channel, self._limits.open_timeout_s)
        if not channel.ended.is_set():
            self._channels.add(channel)
        return channel


def _close_unused_channel(connecting: asyncio.Future[RelayEnd]) -> None:
    """Close a channel that opened just as its client disconnected."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


async def _refuse(client: RelayEnd, error: BouchetError) -> None:
    """Answer the client's request with a 503. Waits for the request, since some clients drop an early response."""
    try:
        async with asyncio.timeout(REFUSAL_TIMEOUT_S):
            await client.has_data.wait()
            client.discard()
            client.write(refusal(error))
            client.finish()
            await client.ended.wait() if not client.eof else None
    except TimeoutError:
        pass
    client.close()


def refusal(error: BouchetError) -> bytes:
    """Return a whole HTTP response, 503: problem fields for our services, and `error` as OpenAI's clients expect it."""
    detail = str(error)
    title = "Bad gateway" if isinstance(error, RemoteFileError) else "Not available now"
    fields = problem_document(503, error.kind, detail, title)
    body = json.dumps({**fields, "error": {"message": detail, "type": error.kind, "code": 503}}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nretry-after: 5\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
