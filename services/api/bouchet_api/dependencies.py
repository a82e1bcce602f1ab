"""Before every request handler: authentication, and the state that FastAPI dependencies hand out."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from threading import Lock
from typing import Annotated
from urllib.parse import urlsplit

from bouchet_core.config.catalog import Catalog, load_catalog
from bouchet_core.config.site import Site, catalogs_of, load_site
from bouchet_core.deployments import Deployment
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelStatus
from fastapi import Depends, Path, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .notifier import EventNotifier
from .problems import Problem, problem, problem_response
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


@dataclass(frozen=True)
class AppState:
    """Store, task queue, gateway, site and catalog of one running API; `pins_dir` holds one folder per image pin."""

    store: Store
    tasks: TaskClient
    gateway: GatewayClient
    catalog: CatalogFiles
    notifier: EventNotifier
    site: Site
    pins_dir: FilePath = FilePath("/etc/bouchet/pins")

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
    catalog = CatalogFiles(catalogs_of(settings.site_file, site, settings.catalog), site.default_model)
    catalog.current()
    store = Store.connect(settings.redis_login)
    tasks = TaskClient(store)
    with GatewayClient(settings.gateway_url, settings.gateway_token.get_secret_value()) as gateway:
        try:
            yield AppState(store, tasks, gateway, catalog, EventNotifier(store), site, settings.pins_dir)
        finally:
            tasks.close()
            store.close()


def get_state(request: Request) -> AppState:
    """Return the state of the application that serves this request."""
    state: AppState = request.app.state.bouchet
    return state


StateDep = Annotated[AppState, Depends(get_state)]


def find_deployment(
    state: StateDep, deployment: Annotated[str, Path(description="id, or a name of a live deployment", max_length=300)]
) -> Deployment:
    """Return the record that the path names."""
    return state.store.get(deployment)


DeploymentDep = Annotated[Deployment, Depends(find_deployment)]


def _file_version(path: FilePath) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0  # load_catalog raises the error that names the file
    return found.st_mtime_ns, found.st_size


OPEN_PATHS = frozenset({"/healthz"})
# A foreign name that resolves to 127.0.0.1 (DNS rebinding) is not in this list. `api` is the container's name.
HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "api"})
MAX_BODY_BYTES = 256 * 1024
MAX_LENGTH_DIGITS = 12
FORM, JSON = (b"content-type", b"application/x-www-form-urlencoded"), b"application/json"


class AuthMiddleware:
    """ASGI middleware that checks every HTTP request, also those to unknown paths."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem."""
        if scope["type"] == "http":
            found = access_problem(scope["path"], Headers(scope=scope), self.key)
            if found is not None:
                headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else {}
                await problem_response(found, headers)(scope, receive, send)
                return
            scope = _with_json_type(scope)
        await self.app(scope, receive, send)


def access_problem(path: str, headers: Headers, key: str) -> Problem | None:
    """Return why this request is refused; None lets it pass."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if _hostname(f"//{host}") not in HOSTS:
        return problem(403, "foreign_host", "this API accepts the hosts 127.0.0.1 and localhost only")
    if origin is not None and _hostname(origin) not in HOSTS:
        return problem(403, "foreign_origin", "web pages of other sites may not use this API")
    if path not in OPEN_PATHS and not has_key(headers, key):
        return problem(401, "unauthorized", "send BOUCHET_ADMIN_KEY of .env as `Authorization: Bearer` or `x-api-key`")
    return _body_length_problem(headers)


def has_key(headers: Headers, key: str) -> bool:
    """Return whether either header carries the key, in a time that does not depend on the value sent."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    as_bearer = hmac.compare_digest(bearer.strip().encode() if scheme.lower() == "bearer" else b"", key.encode())
    as_header = hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode())
    return as_bearer or as_header


def _with_json_type(scope: Scope) -> Scope:
    """Return the scope with a form's content type replaced: `curl -d` sends every body as a form."""
    headers = [(name, JSON if (name, value) == FORM else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers}


def _body_length_problem(headers: Headers) -> Problem | None:
    if "transfer-encoding" in headers:
        return problem(411, "length_required", "send the body with a Content-Length")
    length = headers.get("content-length", "0")
    is_number = length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS
    if not is_number or int(length) > MAX_BODY_BYTES:
        return problem(413, "too_large", f"the body is longer than {MAX_BODY_BYTES // 1024} KiB")
    return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
