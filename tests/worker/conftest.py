"""A worker's context on a real Redis, and a gateway with a fake Slurm in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_core.config.catalog import Catalog, load_catalog
from bouchet_core.config.job_scripts import ScriptBundle, load_scripts
from bouchet_core.config.site import Site, catalogs_of, load_site
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import TOKEN, FakeSlurm, GatewayServer, gateway_server, serve_http
from tests.fakes.vllm.worker_server import worker_vllm

from .scenario import REPOSITORY, SECRET, SLOTS, Clock, MakeWorkerContext, Slot0, WorkerScenario


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """Yield an empty store, with the worker's rights in Redis."""
    store = redis_server.store("worker")
    yield store
    store.close()


@pytest.fixture(scope="session")
def demo_site() -> Site:
    return load_site(REPOSITORY / "sites" / "demo.yaml")


@pytest.fixture(scope="session")
def bouchet_site() -> Site:
    return load_site(REPOSITORY / "sites" / "bouchet.yaml")


@pytest.fixture(scope="session")
def catalog(demo_site: Site) -> Catalog:
    return load_catalog(*catalogs_of(REPOSITORY / "sites" / "demo.yaml", demo_site, REPOSITORY / "models.yaml"))


@pytest.fixture(scope="session")
def scripts() -> ScriptBundle:
    return load_scripts(REPOSITORY / "remote")


@pytest.fixture
def slurm() -> FakeSlurm:
    return FakeSlurm()


@pytest.fixture(scope="session")
def shared_gateway() -> Iterator[tuple[GatewayServer, GatewayClient]]:
    # a client takes long to make: httpx loads the certificates of all authorities
    with gateway_server(FakeSlurm()) as server, GatewayClient(server.url, TOKEN) as client:
        yield server, client


@pytest.fixture
def gateway(slurm: FakeSlurm, shared_gateway: tuple[GatewayServer, GatewayClient]) -> GatewayClient:
    server, client = shared_gateway
    server.use(slurm)
    return client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_context(
    store: Store, gateway: GatewayClient, demo_site: Site, catalog: Catalog, scripts: ScriptBundle, clock: Clock
) -> MakeWorkerContext:
    def make(owner: str = "worker-1", **changes: object) -> WorkerContext:
        fields: dict[str, object] = {
            "store": store,
            "gateway": gateway,
            "site": demo_site,
            "catalog": catalog,
            "scripts": scripts,
            "serving_secret": SECRET,
            "slot_count": SLOTS,
            "owner": owner,
            "now": clock,
        }
        return WorkerContext(**{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def new_cluster(make_context: MakeWorkerContext) -> WorkerContext:
    """Return a context of a cluster that has no scripts yet."""
    return make_context()


@pytest.fixture
def context(make_context: MakeWorkerContext, slurm: FakeSlurm) -> WorkerContext:
    """Return a context of a cluster that has the scripts, as after a first launch."""
    context = make_context()
    for name, content in context.scripts.staged_files().items():
        slurm.files[f"{context.scripts_dir}/{name}"] = content
    context.scripts_compared.set()
    return context


@pytest.fixture
def slot0() -> Iterator[Slot0]:
    vllm = worker_vllm(window=4321, version="0.32.0+cpu")
    with serve_http(vllm) as port:
        yield Slot0(port, vllm)


@pytest.fixture
def scenario(
    context: WorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> Iterator[WorkerScenario]:
    made = WorkerScenario(context, gateway, slot0, slurm, clock)
    yield made
    made.probe.close()
