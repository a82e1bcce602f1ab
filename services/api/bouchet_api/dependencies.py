"""The state of the running API, and what FastAPI dependencies hand out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from threading import Lock
from typing import Annotated

from bouchet_core.config.catalog import Catalog, load_catalog
from bouchet_core.config.site import Site, catalogs_of, load_site
from bouchet_core.deployments import Deployment
from bouchet_core.errors import ConfigurationError, LaunchRefusedError
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.policy import Budget, parse_budget
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelStatus
from fastapi import Depends, Path, Request
from pydantic import SecretStr

from .dashboard.chat import ProxyChat
from .dashboard.live import LiveView
from .ledger import Ledger, open_ledger
from .notifier import EventNotifier
from .settings import ApiSettings
from .task_client import TaskClient

# modification time in ns and size of each catalog file
FileVersions = tuple[tuple[int, int], ...]


class CatalogFiles:
    """The catalog files, loaded again when one of them changes. `default` overrides the files' default model."""

    def __init__(self, paths: Sequence[FilePath], default: str | None = None) -> None:
        self._paths, self._default = tuple(paths), default
        self._lock = Lock()
        self._loaded: tuple[FileVersions, Catalog] | None = None

    def current(self) -> Catalog:
        """Return the catalog; a broken file raises ConfigurationError with its name and line."""
        with self._lock:
            versions = tuple(_file_version(path) for path in self._paths)
            if self._loaded is None or self._loaded[0] != versions:
                files = load_catalog(*self._paths)
                self._loaded = versions, Catalog(files.entries, self._default or files.default)
            return self._loaded[1]

    def added(self) -> frozenset[str]:
        """Return the ids of the last file, which `bouchet models add` writes."""
        return frozenset(load_catalog(self._paths[-1]).entries)


@dataclass(frozen=True)
class AppState:
    """Store, task queue, gateway, site and catalog of one running API; `pins_dir` holds one folder per image pin."""

    store: Store
    tasks: TaskClient
    gateway: GatewayClient
    catalog: CatalogFiles
    notifier: EventNotifier
    live_view: LiveView
    chat: ProxyChat
    site: Site
    ledger: Ledger
    pins_dir: FilePath = FilePath("/etc/bouchet/pins")
    # the catalog file that `bouchet models add` writes
    added_catalog: FilePath = FilePath("/etc/bouchet/sites/site.added.yaml")
    # of the installation
    budget: Budget | None = None
    # whether messages have a target, so that a notifier runs
    notifies: bool = False
    # seals the keys of attached servers
    attach_secret: SecretStr = field(default=SecretStr(""), repr=False)

    def tunnel(self) -> TunnelStatus:
        """Return the tunnel's state, with the requests that wait for it. Raises GatewayError, StoreUnavailableError."""
        load = self.store.load.current()
        return self.gateway.status().model_copy(update={"waiting_requests": load.cut if load else 0})


@contextmanager
def open_state(settings: ApiSettings) -> Iterator[AppState]:
    """Open all clients and close them at the end.

    Raises ConfigurationError for the site file or catalog; Redis and the gateway need not answer yet.
    """
    site = load_site(settings.site_file)
    paths = catalogs_of(settings.site_file, site, settings.catalog)
    catalog = CatalogFiles(paths, site.default_model)
    catalog.current()
    store = Store.connect(settings.redis_login)
    tasks = TaskClient(store)
    ledger = open_ledger(settings, store)
    with GatewayClient(settings.gateway_url, settings.gateway_token.get_secret_value()) as gateway:
        try:
            notifier = EventNotifier(store)
            chat = ProxyChat(settings.proxy_url, settings.chat_key.get_secret_value())
            shown = notifier, LiveView(store, gateway, notifier), chat
            files = settings.pins_dir, paths[-1]
            budget, notifies = read_budget(settings.budget), settings.notifiers == "1"
            yield AppState(
                store,
                tasks,
                gateway,
                catalog,
                *shown,
                site,
                ledger,
                *files,
                budget=budget,
                notifies=notifies,
                attach_secret=settings.attach_secret,
            )
        finally:
            ledger.database.close()
            tasks.close()
            store.close()


def read_budget(text: str) -> Budget | None:
    """Return the installation's budget, None without one. Raises ConfigurationError."""
    try:
        return parse_budget(text) if text else None
    except LaunchRefusedError as exc:
        raise ConfigurationError("BOUCHET_BUDGET", str(exc)) from exc


def get_state(request: Request) -> AppState:
    """Return the state of the application that serves this request."""
    state: AppState = request.app.state.bouchet
    return state


StateDep = Annotated[AppState, Depends(get_state)]


def find_deployment(
    state: StateDep, deployment: Annotated[str, Path(description="id, or a name of a live deployment", max_length=300)]
) -> Deployment:
    """Return the record that the path names; whoever asks for one waits for it to change."""
    state.store.live_view.note_awaited()
    return state.store.get(deployment)


DeploymentDep = Annotated[Deployment, Depends(find_deployment)]


def _file_version(path: FilePath) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0  # load_catalog raises the error that names the file
    return found.st_mtime_ns, found.st_size
