"""`python -m bouchet_proxy`: the proxy's process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import uvicorn
from bouchet_core.config.catalog import load_catalog
from bouchet_core.errors import BouchetError, ConfigurationError
from bouchet_core.store import Store

from .app import Front
from .auth.key_watcher import KeyWatcher
from .backends.direct import DirectLane
from .backends.litellm import LiteLLMCarrier
from .routing.watcher import TableWatcher
from .settings import ProxySettings
from .usage.recorder import Recorder

# streams get this long to end after SIGTERM
GRACE_S = 20

log = logging.getLogger("bouchet_proxy")


def main() -> int:
    """Serves until told to stop; 1 when a file that the user wrote cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = ProxySettings.from_environment(os.environ)
    except BouchetError as exc:
        log.error("%s", exc)
        return 1
    logging.getLogger().setLevel(settings.log_level)
    asyncio.run(serve(settings))
    return 0


async def serve(settings: ProxySettings) -> None:
    """Opens everything, serves, closes everything."""
    store = Store.connect(settings.redis_host, settings.redis_port, settings.redis_password.get_secret_value())
    watcher = TableWatcher(store, catalog_words(settings.catalog))
    keys, recorder = (
        KeyWatcher(store, settings.api_key.get_secret_value()),
        Recorder(store, settings.serving_secret.get_secret_value()),
    )
    litellm = LiteLLMCarrier.mount(settings)
    async with DirectLane(settings) as lane:
        front = Front(settings, lambda: watcher.table, lambda: keys.table, recorder, lane, litellm, litellm.lifespan)
        watcher.start()
        keys.start()
        recorder.start()
        try:
            await uvicorn.Server(_server_config(front, settings)).serve()
        finally:
            recorder.stop()
            keys.stop()
            watcher.stop()
            store.close()


def catalog_words(path: Path) -> dict[str, str]:
    """Every name of the catalog -> the word to launch it with; empty, with a line in the log, if it cannot be read."""
    try:
        catalog = load_catalog(path)
    except ConfigurationError as exc:
        log.warning("errors will not name the catalog's models: %s", exc)
        return {}
    aliases = {identity: entry.alias for identity, entry in catalog.entries.items()}
    return {**aliases, **{alias: alias for alias in aliases.values()}}


def _server_config(front: Front, settings: ProxySettings) -> uvicorn.Config:
    return uvicorn.Config(
        front,
        host="0.0.0.0",
        port=settings.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    sys.exit(main())
