"""What tasks and the loop work with, built once in main() and handed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bouchet_core.config.catalog import Catalog
from bouchet_core.config.site import Site
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import installation_id
from bouchet_core.store import Store

from .launch.job_files import Layout, ScriptBundle


def utc_now() -> datetime:
    """The clock of everything that is not told another."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class WorkerContext:
    """owner: who holds this worker's leases.

    It is the container's name, which a restarted worker keeps: what its predecessor held is its own at once.
    hub_token: opens gated models of the hub, where this installation has one.
    pins_dir, recipe_dir: what images are made from: apptainer/pins, and the files beside it.
    """

    store: Store
    gateway: GatewayClient
    site: Site
    catalog: Catalog
    scripts: ScriptBundle
    serving_secret: str
    slot_count: int
    owner: str
    now: Callable[[], datetime] = utc_now
    hub_token: str | None = None
    pins_dir: Path = Path("/etc/bouchet/pins")
    recipe_dir: Path = Path("/app/apptainer")

    @property
    def installation(self) -> str:
        """What the jobs of this installation say of themselves."""
        return installation_id(self.serving_secret)

    @property
    def layout(self) -> Layout:
        """Where everything lies on the cluster."""
        return Layout(self.site.root)
