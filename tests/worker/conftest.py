"""A worker's desk on a real Redis and a gateway with a small Slurm in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from bouchet_core.config.catalog import Catalog, load_catalog
from bouchet_core.config.site import Site, catalogs_of, load_site
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import load_scripts

from tests.fakes.slurm_gateway import TOKEN, FakeSlurm, running_gateway, serve_http

REPOSITORY = Path(__file__).parents[2]
SECRET = "serving-secret"
SLOTS = 4


@dataclass
class Clock:
    """The time of a test."""

    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def demo_site() -> Site:
    return load_site(REPOSITORY / "sites" / "demo.yaml")


@pytest.fixture(scope="session")
def bouchet_site() -> Site:
    return load_site(REPOSITORY / "sites" / "bouchet.yaml")


@pytest.fixture(scope="session")
def catalog(demo_site: Site) -> Catalog:
    return load_catalog(*catalogs_of(REPOSITORY / "sites" / "demo.yaml", demo_site, REPOSITORY / "models.yaml"))


@pytest.fixture
def slurm() -> FakeSlurm:
    return FakeSlurm()


@pytest.fixture
def gateway(slurm: FakeSlurm) -> Iterator[GatewayClient]:
    with running_gateway(slurm) as url, GatewayClient(url, TOKEN) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeWorkerContext = Callable[..., WorkerContext]


@pytest.fixture
def make_context(
    store: Store, gateway: GatewayClient, demo_site: Site, catalog: Catalog, clock: Clock
) -> MakeWorkerContext:
    def make(owner: str = "worker-1", **changes: object) -> WorkerContext:
        fields: dict[str, object] = {
            "store": store,
            "gateway": gateway,
            "site": demo_site,
            "catalog": catalog,
            "scripts": load_scripts(REPOSITORY / "remote"),
            "serving_secret": SECRET,
            "slot_count": SLOTS,
            "owner": owner,
            "now": clock,
        }
        return WorkerContext(**{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def context(make_context: MakeWorkerContext) -> WorkerContext:
    return make_context()


def requested(identity: str, now: datetime, model: str = "demo/scripted", **options: object) -> Deployment:
    """A record as the API makes it."""
    return Deployment(
        id=identity,
        model=model,
        names=(f"bouchet-{identity}",),
        request=LaunchRequest.model_validate({"model": model, **options}),
        created_at=now,
        updated_at=now,
    )


class FakeVllm(BaseHTTPRequestHandler):
    """The paths that the worker asks, behind a slot. `state` is shared: up, down or draining."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state, warning = "up", ""
    job_name = ""
    # of a job taken over; else the derived one
    key = ""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send({"up": 200, "down": 500, "draining": 503}[self.state], b"")
        elif self.headers["Authorization"] != f"Bearer {self.key or serving_key(SECRET, self.job_name)}":
            self._send(401, b"{}")
        elif self.path == "/v1/models":
            self._send(200, b'{"data": [{"id": "m", "max_model_len": 4321}]}')
        else:
            self._send(200, b'{"version": "0.32.0+cpu"}')

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.state == "draining":
            self.send_header("x-bouchet-state", "draining")
        if self.warning:
            self.send_header("x-bouchet-warning", self.warning)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@dataclass
class Slot0:
    """The first slot: its port, and the vLLM behind it."""

    port: int
    vllm: type[FakeVllm]


@pytest.fixture
def slot0() -> Iterator[Slot0]:
    vllm = type("Vllm", (FakeVllm,), {})
    with serve_http(vllm) as port:
        yield Slot0(port, vllm)
