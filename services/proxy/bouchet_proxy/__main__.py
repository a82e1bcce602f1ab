"""`python -m bouchet_proxy`: the proxy's process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import uvicorn
import uvloop
from bouchet_core.config.catalog import load_catalog
from bouchet_core.errors import BouchetError, ConfigurationError
from bouchet_core.settings import start_logging
from bouchet_core.store import Store

from .app import ProxyApp
from .asgi import App
from .backends.deferred import DeferredBackend, Mount
from .backends.direct import DirectBackend
from .backends.litellm import LiteLLMBackend
from .http.server_protocol import BoundedHeadProtocol
from .refresh import KeyTableThread, RoutingTableThread
from .routing.load import LoadReporter, LoadTracker
from .settings import ProxySettings
from .upstream_request import Backend
from .usage.live import LiveReporter, OpenRequests
from .usage.recorder import UsageRecorder

# streams get this long to end after SIGTERM
SHUTDOWN_TIMEOUT_S = 20
# of clients; beyond it they get a plain 503
MAX_CONNECTIONS = 2048

log = logging.getLogger("bouchet_proxy")


def main() -> int:
    """Serve until SIGTERM. Return 1 when a setting or a secret file is invalid."""
    start_logging("INFO")
    try:
        settings = ProxySettings.from_environment(os.environ)
    except BouchetError as exc:
        log.error("%s", exc)
        return 1
    logging.getLogger().setLevel(settings.log_level)
    run(settings, mount_litellm)
    return 0


def mount_litellm(settings: ProxySettings) -> tuple[Backend, App]:
    """Load LiteLLM."""
    backend = LiteLLMBackend.mount(settings)
    return backend, backend.lifespan


def run(settings: ProxySettings, mount: Mount) -> None:
    """Serve until SIGTERM, on uvloop."""
    # uvicorn's own setting has no effect on a server inside a running loop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, mount))


async def serve(settings: ProxySettings, mount: Mount) -> None:
    """Open all connections and threads, serve, and close them."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uvloop.Loop)
    log.info("serving on port %d, on %s", settings.port, type(loop).__module__)
    store = Store.connect(settings.redis_login)
    routes = RoutingTableThread(store, catalog_names(settings.catalog))
    keys = KeyTableThread(store, settings.api_key.get_secret_value())

    def problem() -> str:
        return routes.problem() or keys.problem()

    tracker = LoadTracker(cut=lambda: recorder.active.cut)
    recorder = UsageRecorder(store, settings.serving_secret.get_secret_value(), tracker.measure)
    deferred = DeferredBackend(mount, settings)
    litellm, lifespan = (deferred, deferred.lifespan) if settings.direct else mount(settings)
    open_requests = OpenRequests(settings.serving_secret.get_secret_value())
    live = LiveReporter(store, open_requests)
    reporter = LoadReporter(store, tracker, lambda: routes.read_at)
    async with DirectBackend(settings) as direct:
        tables = (lambda: routes.table), (lambda: keys.table)
        app = ProxyApp(settings, *tables, problem, recorder, direct, litellm, lifespan, tracker, open_requests)
        threads = (routes, reporter, keys, recorder, live)
        for thread in threads:
            thread.start()
        try:
            await uvicorn.Server(_server_config(app, settings)).serve()
        finally:
            for thread in reversed(threads):
                thread.stop()
            store.close()


def catalog_names(path: Path) -> dict[str, str]:
    """Return every name in the catalog -> the alias to launch it with; empty, with a warning, if it cannot be read."""
    try:
        catalog = load_catalog(path)
    except ConfigurationError as exc:
        log.warning("error messages will not list the catalog's models: %s", exc)
        return {}
    aliases = {model: entry.alias for model, entry in catalog.entries.items()}
    return {**aliases, **{alias: alias for alias in aliases.values()}}


def _server_config(app: ProxyApp, settings: ProxySettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host="0.0.0.0",
        port=settings.port,
        loop="none",
        http=BoundedHeadProtocol,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )


if __name__ == "__main__":
    sys.exit(main())
