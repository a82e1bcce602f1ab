"""A backend that is loaded for the first request that needs it.

LiteLLM takes seconds to import and 200 MB of memory. With `DIRECT=on` only Gemini's dialect goes through it, which most
installations never see.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bouchet_proxy.asgi import App, ClientDisconnectedError, Message, Receive, Scope, Send
from bouchet_proxy.errors import ProxyError, internal_error
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.upstream_request import Backend, UpstreamRequest

from .loading import wait_until_loaded

# loads a backend, and the lifespan of its app
Mount = Callable[[ProxySettings], tuple[Backend, App]]

log = logging.getLogger(__name__)


class LifespanError(Exception):
    """The app of a backend did not start."""


class DeferredBackend(Backend):
    """Loads a backend in a thread, once, and starts its app in the running loop."""

    def __init__(self, mount: Mount, settings: ProxySettings) -> None:
        self._mount, self._settings = mount, settings
        self._loading: asyncio.Task[Backend] | None = None
        self._app: RunningApp | None = None

    async def send(self, request: UpstreamRequest, scope: Scope) -> None:
        """Send the request, after the backend has been loaded; other requests are served meanwhile.

        Raises ClientDisconnectedError if the client has left before.
        """
        try:
            backend = await wait_until_loaded(self._start(), request.writer, streams=request.wants_stream)
        except ClientDisconnectedError:
            raise
        except ProxyError as exc:
            await request.fail(exc)
            return
        except Exception:
            log.exception("the backend for %s could not be loaded", request.endpoint)
            await request.fail(internal_error())
            return
        await backend.send(request, scope)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ASGI's lifespan: the start loads nothing, the end ends what was loaded."""
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        if self._app is not None:
            await self._app.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self) -> asyncio.Task[Backend]:
        """Return the task that loads it; one that failed is begun again for the next request."""
        task = self._loading
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            log.info("loading LiteLLM for the first request that goes through it")
            task = self._loading = asyncio.create_task(self._load())
        return task

    async def _load(self) -> Backend:
        backend, lifespan = await asyncio.to_thread(self._mount, self._settings)
        self._app = await RunningApp.start(lifespan)
        return backend


class RunningApp:
    """The lifespan of an ASGI app, in a task of its own."""

    def __init__(self, lifespan: App) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task = asyncio.create_task(self._run(lifespan, scope))

    @classmethod
    async def start(cls, lifespan: App) -> RunningApp:
        """Start the app. Raises LifespanError."""
        app = cls(lifespan)
        await app._exchange("lifespan.startup")
        return app

    async def stop(self) -> None:
        """Stop the app. Raises LifespanError."""
        await self._exchange("lifespan.shutdown")
        await self._task

    async def _exchange(self, kind: str) -> None:
        self._inbox.put_nowait({"type": kind})
        answer = await self._outbox.get()
        if answer["type"] != f"{kind}.complete":
            raise LifespanError(f"{kind}: {answer.get('message') or answer['type']}")

    async def _run(self, lifespan: App, scope: Scope) -> None:
        try:
            await lifespan(scope, self._inbox.get, self._outbox.put)
        except Exception as exc:
            log.exception("the app of a backend failed")
            self._outbox.put_nowait({"type": "failed", "message": str(exc)})
