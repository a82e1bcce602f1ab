"""What every task and the reconcile loop work with: one value, built in main() and passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bouchet_core.config.catalog import Catalog
from bouchet_core.config.job_scripts import ScriptBundle
from bouchet_core.config.site import Site
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import installation_id
from bouchet_core.policy import Budget
from bouchet_core.store import Store

from .paths import RemotePaths

# how work beside the reconcile loop is started; tests run it in the calling thread
StartWork = Callable[[Callable[[], None]], None]


def utc_now() -> datetime:
    """Return the current time in UTC: the default clock."""
    return datetime.now(UTC)


def start_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends with the process; the next worker does the work again."""
    threading.Thread(target=work, name="background", daemon=True).start()


@dataclass(frozen=True)
class WorkerContext:
    """The clients, the configuration and the secrets of one worker."""

    store: Store
    gateway: GatewayClient
    site: Site
    catalog: Catalog
    scripts: ScriptBundle
    serving_secret: str
    # how many deployments can be reached at a time
    slot_count: int
    # holder of this worker's leases: the container's name, which survives a restart, so a restarted worker has its
    # own leases back at once
    owner: str
    now: Callable[[], datetime] = utc_now
    # for gated models on the hub, where this installation has a token
    hub_token: str | None = None
    # where the gateway's slots are: slot n listens on slot_base_port + n
    slot_host: str = "gateway"
    slot_base_port: int = 8100
    # image pins (apptainer/pins), and the files that every image is built with (apptainer/)
    pins_dir: Path = Path("/etc/bouchet/pins")
    recipe_dir: Path = Path("/app/apptainer")
    # what all deployments together may use; None: no limit
    budget: Budget | None = None
    # what the container's health check (setup/image/worker-ok) looks at
    heartbeat_file: Path | None = None
    # set once the job scripts on the cluster were compared with these
    scripts_compared: threading.Event = field(default_factory=threading.Event)
    # set once the user's queue was too long to be listed whole
    has_long_queue: threading.Event = field(default_factory=threading.Event)

    @property
    def installation(self) -> str:
        """The id that the jobs of this installation carry in their record.json."""
        return installation_id(self.serving_secret)

    @property
    def paths(self) -> RemotePaths:
        """The names of all files and folders on the cluster."""
        return RemotePaths(self.site.root)

    @property
    def scripts_dir(self) -> str:
        """The folder of this version's job scripts on the cluster."""
        return self.paths.scripts(self.scripts.digest)
