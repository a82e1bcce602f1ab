"""The gateway put together: desk, session, cluster, slots and door, in one loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bouchet_core.store import Store
from fastapi import FastAPI

from .allowlist import Allowlist
from .api import Door
from .events import News
from .remote_commands import Cluster
from .settings import GatewaySettings
from .slots.forward import Forwards, Targets
from .ssh.connect import Connector
from .ssh.prompts import PromptBroker
from .ssh.trusted_hosts import TrustedHosts
from .ssh.tunnel import Tunnel

# how long a gateway that stops waits for the store to take what happened last
LAST_WORDS_S = 1.0


class Gateway:
    """All parts of one gateway. Inside `running` they work; `app` is the door."""

    def __init__(self, settings: GatewaySettings, store: Store) -> None:
        self._settings = settings
        site, limits = settings.site, settings.limits
        self.broker = PromptBroker(settings.prompt_timeout_s, settings.mfa_auto)
        trusted = TrustedHosts(settings.ssh.trusted_hosts)
        self.tunnel = Tunnel(Connector(settings.ssh, self.broker, trusted), self.broker, trusted)
        allowlist = Allowlist(site.allowed_roots, site.root.rstrip("/") + "/remote")
        self.cluster = Cluster(self.tunnel, allowlist, limits)
        self.forwards = Forwards(self.tunnel, Targets(store), limits)
        self._news = News(store)
        self.tunnel.on_change = self._news.note
        door = Door(
            self.tunnel,
            self.cluster,
            self.forwards,
            self.broker,
            settings.gateway_token.get_secret_value(),
            limits.file_bytes,
        )
        self.app = door.app(self._lifespan)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The slots listen and the session keeps its connection, until the block ends."""
        s = self._settings
        await self.forwards.start(s.slot_host, s.slot_base_port, s.slot_count)
        loop = asyncio.get_running_loop()
        telling = loop.create_task(self._news.run())
        life = loop.create_task(self.tunnel.run())
        try:
            yield
        finally:
            await self.forwards.close()
            await _ended(life)
            await self._news.told(LAST_WORDS_S)
            await _ended(telling)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        # within uvicorn's own life: it ends the process by signal once the server has stopped
        async with self.running():
            yield


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
