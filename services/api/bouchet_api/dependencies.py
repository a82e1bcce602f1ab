"""What the handlers work with, made once in main and handed to them by FastAPI's dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated

from bouchet_core.deployments import Deployment
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.site import Site, catalogs_of, load_site
from bouchet_core.store import Store
from fastapi import Depends, Path, Request

from .catalog_files import CatalogFiles
from .notifier import Bell
from .settings import ApiSettings
from .task_client import Tasks


@dataclass(frozen=True)
class Parts:
    """Store, queue, gateway, site and catalog of one running API; pins_dir holds a folder a pin."""

    store: Store
    tasks: Tasks
    gateway: GatewayClient
    catalog: CatalogFiles
    bell: Bell
    site: Site
    pins_dir: FilePath = FilePath("/etc/bouchet/pins")


@contextmanager
def opened(settings: ApiSettings) -> Iterator[Parts]:
    """All parts; closed in the end. Raises ConfigurationError; Redis and gateway need not answer yet."""
    site = load_site(settings.site_file)
    catalog = CatalogFiles(catalogs_of(settings.site_file, site, settings.catalog), site.default_model)
    catalog.current()
    store = Store.connect(settings.redis_host, settings.redis_port, settings.redis_password.get_secret_value())
    tasks = Tasks(store)
    with GatewayClient(settings.gateway_url, settings.gateway_token.get_secret_value()) as gateway:
        try:
            yield Parts(store, tasks, gateway, catalog, Bell(store), site, settings.pins_dir)
        finally:
            tasks.close()
            store.close()


def parts_of(request: Request) -> Parts:
    """The parts of the app that got this request."""
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(parts_of)]


def deployment_of(
    parts: PartsDep, deployment: Annotated[str, Path(description="id, or a name of a live deployment", max_length=300)]
) -> Deployment:
    """The record that the path names."""
    return parts.store.get(deployment)


DeploymentDep = Annotated[Deployment, Depends(deployment_of)]
