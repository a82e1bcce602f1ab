"""`python -m bouchet_gateway`: runs the internal API, the tunnel and the slots until SIGTERM."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

import uvicorn
from bouchet_core.errors import BouchetError
from bouchet_core.settings import start_logging
from bouchet_core.store import Store

from .gateway import Gateway
from .settings import GatewaySettings

SHUTDOWN_GRACE_S = 5
# allocations before a search for reference cycles; a packet makes a few dozen objects, hardly any in a cycle
GC_THRESHOLD = 50_000


def main() -> int:
    """Run the gateway; return 2 when a setting cannot be used."""
    try:
        settings = GatewaySettings.from_environment(os.environ)
    except BouchetError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    start_logging(settings.log_level)
    # asyncssh logs every channel at INFO
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gateway-home-") as home:
        _set_home(Path(home), settings.ssh.ssh_dir)
        _serve(settings)
    return 0


def _set_home(home: Path, ssh_dir: Path) -> None:
    """Make `~/.ssh` in ssh configs (Include, UserKnownHostsFile, %d) the mounted directory."""
    (home / ".ssh").symlink_to(ssh_dir)
    os.environ["HOME"] = str(home)
    # the container runs under a user id without a passwd entry, and asyncssh needs some local user name
    os.environ.setdefault("LOGNAME", "bouchet")


def _serve(settings: GatewaySettings) -> None:
    # uvicorn shuts down at SIGTERM and raises the signal again for the earlier handler: ours exits with status 0
    signal.signal(signal.SIGTERM, _exit)
    store = Store.connect(settings.redis_login)
    gateway = Gateway(settings, store)
    _tune_garbage_collector()
    config = uvicorn.Config(
        gateway.app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    try:
        uvicorn.Server(config).run()
    finally:
        store.close()


def _tune_garbage_collector() -> None:
    """Search for cycles less often: at the default setting this takes 7 % of the CPU under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


def _exit(number: int, frame: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
