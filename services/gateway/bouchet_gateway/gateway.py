"""Assembles the gateway in one event loop: tunnel, remote commands, slots, internal API, and the tunnel's events.

Changes of the tunnel go to the store, from where the API streams them. Prompts and answers are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

from bouchet_core.config.job_scripts import load_scripts
from bouchet_core.errors import StoreError
from bouchet_core.store import Store
from bouchet_core.tunnel import TargetSigner, TunnelEvent, TunnelState, TunnelStatus
from fastapi import FastAPI

from .allowlist import Allowlist
from .api import InternalApi, Role
from .remote_commands import RemoteCommands
from .settings import GatewaySettings
from .slots.forward import SlotForwarder, SlotTargets
from .ssh.tunnel import Tunnel

log = logging.getLogger(__name__)

# events kept while the store does not answer; the oldest are dropped
MAX_QUEUED = 100


class TunnelEventPublisher:
    """Queues tunnel events and writes them to the store in order. `publish` never waits; `run` does the writing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: asyncio.Queue[TunnelEvent] = asyncio.Queue()
        self._last: tuple[TunnelState, str, str] | None = None
        self._store_is_down = False

    def publish(self, status: TunnelStatus) -> None:
        """Enqueue an event if the status has changed; the repeated attempts of a long outage are one change."""
        event = event_of(status)
        change = (event.state, event.detail, event.waits_for)
        last_state = self._last[0] if self._last else None
        if change == self._last or (event.state is TunnelState.CONNECTING and last_state is TunnelState.DOWN):
            return
        self._last = change
        while self._queue.qsize() >= MAX_QUEUED:
            self._queue.get_nowait()
            self._queue.task_done()
        self._queue.put_nowait(event)

    async def run(self) -> None:
        """Write queued events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await asyncio.to_thread(self._store.tunnel.append, event)
                self._store_is_down = False
            except StoreError as exc:
                if not self._store_is_down:
                    log.warning("tunnel events cannot be published: %s", exc)
                self._store_is_down = True
            finally:
                self._queue.task_done()

    async def drain(self, timeout_s: float) -> None:
        """Wait until all queued events are written, at most timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue.join()
        except TimeoutError:
            return


def event_of(status: TunnelStatus) -> TunnelEvent:
    """Return the public part of a status, as an event of now."""
    waits_for: Literal["", "prompt", "host_key"] = ""
    if status.prompt or status.host_key:
        waits_for = "prompt" if status.prompt else "host_key"
    return TunnelEvent(
        state=status.state, host=status.host, detail=status.detail, waits_for=waits_for, at=datetime.now(UTC)
    )


# how long a gateway that stops waits for the store to take the last events
DRAIN_TIMEOUT_S = 1.0


class Gateway:
    """All parts of one gateway. They work inside `running`; `app` is the internal API."""

    def __init__(self, settings: GatewaySettings, store: Store) -> None:
        self._settings = settings
        site, limits = settings.site, settings.limits
        self.events = TunnelEventPublisher(store)
        self.tunnel = Tunnel(settings.ssh, settings.prompt_timeout_s, settings.mfa_auto, on_change=self.events.publish)
        self.broker = self.tunnel.broker
        allowlist = Allowlist(site, load_scripts(settings.remote_dir))
        self.commands = RemoteCommands(self.tunnel, allowlist, limits)
        secrets = {Role.API: settings.gateway_token_api, Role.WORKER: settings.gateway_token_worker}
        tokens = {role: secret.get_secret_value() for role, secret in secrets.items()}
        self.forwarder = SlotForwarder(self.tunnel, SlotTargets(store, TargetSigner(tokens[Role.WORKER])), limits)
        self._api = InternalApi(self.tunnel, self.commands, self.forwarder, tokens, limits.file_bytes)

    @cached_property
    def app(self) -> FastAPI:
        """The internal API as an ASGI application, made when it is first served."""
        return self._api.app(self._lifespan)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen on the slots and keep the tunnel up until the block ends."""
        s = self._settings
        await self.forwarder.start(s.slot_host, s.slot_base_port, s.slot_count)
        loop = asyncio.get_running_loop()
        publishing = loop.create_task(self.events.run())
        tunnel = loop.create_task(self.tunnel.run())
        try:
            yield
        finally:
            await self.forwarder.close()
            await _cancelled(tunnel)
            await self.events.drain(DRAIN_TIMEOUT_S)
            await _cancelled(publishing)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        # uvicorn ends the process by signal once its server has stopped, so the parts stop within the app's lifespan
        async with self.running():
            yield


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
