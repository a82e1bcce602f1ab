"""The slots: fixed ports that lead to wherever their deployment runs now.

The target is looked up when a connection is accepted, so nothing outside has to change when a job moves. While SSH
is down a new connection is held for a while instead of refused; one that cannot be served gets a 503 with words.
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
from bouchet_core.tunnel import SlotTarget

from bouchet_gateway.errors import NoTargetError
from bouchet_gateway.settings import GatewayLimits
from bouchet_gateway.ssh.tunnel import Tunnel

from .relay import Half

log = logging.getLogger(__name__)

OpenChannel = Callable[[SlotTarget, Callable[[], asyncio.Protocol], float], Awaitable[None]]

TARGET_TTL_S = 0.5
# a store that is away is not asked for every connection
STORE_TIMEOUT_S = 1.0
STALE_TTL_S = 2.0
BACKLOG = 512
# how long a refused caller may take to send its request, and to hear the answer
REFUSAL_TIMEOUT_S = 5.0
AGAIN_S = 0.05


@dataclass
class _Known:
    target: SlotTarget | None
    until: float


@dataclass(frozen=True)
class Traffic:
    """Bytes towards the cluster, and back."""

    up: int
    down: int


class Targets:
    """Where the slots lead, asked of the store at most twice a second each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, _Known] = {}
        self._asking: dict[int, asyncio.Lock] = {}

    async def look_up(self, slot: int) -> SlotTarget:
        """The slot's target, or NoTargetError. While the store is away, the last one known."""
        async with self._asking.setdefault(slot, asyncio.Lock()):
            known = self._known.get(slot)
            if known is None or known.until <= asyncio.get_running_loop().time():
                known = await self._ask(slot, known)
        if known.target is None:
            raise NoTargetError(f"nothing runs behind slot {slot} now; `bouchet status` shows what does")
        return known.target

    async def _ask(self, slot: int, last: _Known | None) -> _Known:
        ttl_s = TARGET_TTL_S
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                target = await asyncio.to_thread(self._store.slot_target, slot)
        except (StoreUnavailableError, TimeoutError) as exc:
            if last is None or last.target is None:
                raise _no_store(exc) from exc
            target, ttl_s = last.target, STALE_TTL_S
        known = self._known[slot] = _Known(target, asyncio.get_running_loop().time() + ttl_s)
        return known


def _no_store(exc: Exception) -> StoreUnavailableError:
    return (
        exc
        if isinstance(exc, StoreUnavailableError)
        else StoreUnavailableError(f"no answer within {STORE_TIMEOUT_S:g} s")
    )


class Forwards:
    """Listeners for all slots. `ports` after `start` says where; port 0 lets the system choose (tests)."""

    def __init__(self, tunnel: Tunnel, targets: Targets, limits: GatewayLimits) -> None:
        self._tunnel, self._targets, self._limits = tunnel, targets, limits
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[int, set[Half]] = {}
        self._channels: set[Half] = set()
        self._told: dict[int, str] = {}
        self._ended = Traffic(0, 0)
        self.ports: list[int] = []

    @property
    def channels(self) -> int:
        """Channels open through the slots now."""
        return len(self._channels)

    @property
    def traffic(self) -> Traffic:
        """Bytes that went through the slots since the start."""
        guests = [guest for guests in self._open.values() for guest in guests]
        up = self._ended.up + sum(guest.heard for guest in guests)
        return Traffic(up, self._ended.down + sum(channel.heard for channel in self._channels))

    def _count_guest(self, slot: int, guest: Half) -> None:
        self._open[slot].discard(guest)
        self._ended = Traffic(self._ended.up + guest.heard, self._ended.down)

    def _count_channel(self, channel: Half) -> None:
        self._channels.discard(channel)
        self._ended = Traffic(self._ended.up, self._ended.down + channel.heard)

    async def start(self, host: str, base_port: int, count: int) -> None:
        """Listens on base_port + n for every slot n."""
        loop = asyncio.get_running_loop()
        for slot in range(count):
            port = base_port + slot if base_port else 0
            server = await loop.create_server(partial(self._guest, slot), host, port, backlog=BACKLOG)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stops listening and ends what is open."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        for guest in [guest for guests in self._open.values() for guest in guests]:
            guest.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _guest(self, slot: int) -> Half:
        guests = self._open.setdefault(slot, set())
        guest = Half(on_end=lambda: self._count_guest(slot, guest))
        guests.add(guest)
        task = asyncio.get_running_loop().create_task(self._serve(slot, guest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return guest

    async def _serve(self, slot: int, guest: Half) -> None:
        gone = asyncio.ensure_future(guest.ended.wait())
        reaching = asyncio.ensure_future(self._reach(slot))
        joined = False
        try:
            await asyncio.wait({gone, reaching}, return_when=asyncio.FIRST_COMPLETED)
            if reaching.done():
                joined = True
                guest.join(reaching.result())
                self._told.pop(slot, None)
        except BouchetError as error:
            self._tell(slot, error)
            await _refuse(guest, error)
        except Exception:
            log.exception("slot=%d failed in a way nobody foresaw", slot)
            guest.break_off()
        finally:
            gone.cancel()
            if not joined:
                reaching.add_done_callback(_let_go)
            reaching.cancel()

    def _tell(self, slot: int, error: BouchetError) -> None:
        """One line for a row of equal refusals: health checks knock every few seconds while a model starts."""
        if self._told.get(slot) != str(error):
            self._told[slot] = str(error)
            log.warning("slot=%d refused kind=%s detail=%r", slot, error.kind, str(error))

    async def _reach(self, slot: int) -> Half:
        """A channel to the slot's target; waits out a lost SSH connection for a while."""
        if len(self._open[slot]) > self._limits.connections_per_slot:
            raise TunnelDownError(f"slot {slot} has {self._limits.connections_per_slot} connections already")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.hold_s
        while True:
            # before the wait too, for nobody should wait for a slot that leads nowhere
            await self._targets.look_up(slot)
            session = await self._tunnel.session(deadline - loop.time(), patient=True)
            target = await self._targets.look_up(slot)
            try:
                return await self._channel(session.open_channel, target)
            except TunnelDownError:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def _channel(self, open_channel: OpenChannel, target: SlotTarget) -> Half:
        half = Half(on_end=lambda: self._count_channel(half))
        await open_channel(target, lambda: half, self._limits.open_timeout_s)
        if not half.ended.is_set():
            self._channels.add(half)
        return half


def _let_go(reaching: asyncio.Future[Half]) -> None:
    """Closes a channel that opened just as its caller went away."""
    if not reaching.cancelled() and reaching.exception() is None:
        reaching.result().close()


async def _refuse(guest: Half, error: BouchetError) -> None:
    """Answers an HTTP request with 503 and words; waits for the request, for some clients drop an early answer."""
    try:
        async with asyncio.timeout(REFUSAL_TIMEOUT_S):
            await guest.spoke.wait()
            guest.deaf = True
            guest.resume()
            guest.write(refusal(error))
            guest.finish()
            await guest.ended.wait() if not guest.eof else None
    except TimeoutError:
        pass
    guest.close()


def refusal(error: BouchetError) -> bytes:
    """A whole HTTP answer, 503: problem fields for our rooms, `error` for clients that look for OpenAI's."""
    detail = str(error)
    body = json.dumps(
        {
            "type": "about:blank",
            "title": "Bad gateway" if isinstance(error, RemoteFileError) else "Not available now",
            "status": 503,
            "detail": detail,
            "kind": error.kind,
            "error": {"message": detail, "type": error.kind, "code": 503},
        }
    ).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nretry-after: 5\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
