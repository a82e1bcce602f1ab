"""Assembles the gateway: tunnel, remote commands, slots and internal API, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bouchet_core.store import Store
from fastapi import FastAPI

from .allowlist import Allowlist
from .api import InternalApi
from .events import TunnelEventPublisher
from .remote_commands import RemoteCommands
from .settings import GatewaySettings
from .slots.forward import SlotForwarder, SlotTargets
from .ssh.tunnel import Tunnel

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
        allowlist = Allowlist(site.allowed_roots, site.root.rstrip("/") + "/remote")
        self.commands = RemoteCommands(self.tunnel, allowlist, limits)
        self.forwarder = SlotForwarder(self.tunnel, SlotTargets(store), limits)
        token = settings.gateway_token.get_secret_value()
        api = InternalApi(self.tunnel, self.commands, self.forwarder, token, limits.file_bytes)
        self.app = api.app(self._lifespan)

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
