"""`python -m bouchet_gateway`: the inside door and the slots, until SIGTERM."""

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
from bouchet_core.store import Store

from .gateway import Gateway
from .settings import GatewaySettings

GRACE_S = 5
# objects that may be made before cycles are looked for; every packet makes a few dozen, and nearly none is in a cycle
GC_AFTER = 50_000


def main() -> int:
    """Runs the gateway; 2 when a setting cannot be used."""
    try:
        settings = GatewaySettings.from_environment(os.environ)
    except BouchetError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # asyncssh tells every channel at INFO
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gateway-home-") as home:
        _be_at_home(Path(home), settings.ssh.ssh_dir)
        _serve(settings)
    return 0


def _be_at_home(home: Path, ssh_dir: Path) -> None:
    """Makes `~/.ssh` of ssh configs (Include, UserKnownHostsFile, %d) lead to the mounted directory."""
    (home / ".ssh").symlink_to(ssh_dir)
    os.environ["HOME"] = str(home)
    # containers run as a number without a passwd entry; asyncssh insists on some local name
    os.environ.setdefault("LOGNAME", "bouchet")


def _serve(settings: GatewaySettings) -> None:
    # uvicorn stops in order at SIGTERM, then raises the signal again for whoever had it before: us, to leave in order
    signal.signal(signal.SIGTERM, _leave)
    store = Store.connect(settings.redis_host, settings.redis_port, settings.redis_password.get_secret_value())
    gateway = Gateway(settings, store)
    _collect_rarely()
    config = uvicorn.Config(
        gateway.app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    try:
        uvicorn.Server(config).run()
    finally:
        store.close()


def _collect_rarely() -> None:
    """Python's hunt for cycles takes a fourteenth of the CPU under load: what was loaded stays, the rest can wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_AFTER, 20, 50)


def _leave(number: int, frame: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
