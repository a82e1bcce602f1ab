"""Two hundred deployments on record: how fast they are listed, and what keeping them true costs.

API, worker and command run on this machine over a Redis of their own and a small Slurm in memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from bouchet_core.config.catalog import load_catalog
from bouchet_core.config.job_scripts import load_scripts
from bouchet_core.config.site import catalogs_of, load_site
from bouchet_core.deployments import Deployment, Ending, LaunchRequest, Phase
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.context import WorkerContext, utc_now
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.fakes.running_api import ADMIN_KEY, KEY, RunningApi, running_api_and_redis
from tests.fakes.running_worker import REPOSITORY, SERVING_SECRET
from tests.fakes.slurm_gateway import TOKEN, FakeSlurm, running_gateway
from tests.stack.harness import Stack

from .figures import Figure, spread

ON_RECORD = 200
LIVE = 50
TIMES = 15


@dataclass(frozen=True)
class Office:
    """An API, and the context of a worker over the same store."""

    api: RunningApi
    context: WorkerContext
    slurm: FakeSlurm


def many_records(stack: Stack) -> list[Figure]:
    """Measure all figures of this file; the stack under test is not used."""
    del stack
    with office() as house:
        fill(house)
        return [*listing(house), *reconciling(house)]


@contextmanager
def office() -> Iterator[Office]:
    """Start API and worker with an empty store."""
    slurm = FakeSlurm()
    site_file = REPOSITORY / "sites" / "demo.yaml"
    site = load_site(site_file)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        api = opened.enter_context(running_api_and_redis(folder))
        client = opened.enter_context(GatewayClient(opened.enter_context(running_gateway(slurm)), TOKEN))
        catalog = load_catalog(*catalogs_of(site_file, site, REPOSITORY / "models.yaml"))
        scripts = load_scripts(REPOSITORY / "remote")
        yield Office(
            api, WorkerContext(api.store, client, site, catalog, scripts, SERVING_SECRET, LIVE, "bench"), slurm
        )


def fill(house: Office) -> None:
    """Store LIVE deployments with queued jobs, and ended ones."""
    store = house.api.store
    for n in range(ON_RECORD):
        store.create(record(f"d{n:03}"))
        if n < LIVE:
            submit(house.context, f"d{n:03}")
        else:
            store.update(f"d{n:03}", _ended)
    assert len(store.live()) == LIVE


def record(identity: str) -> Deployment:
    """Make a record as the API does."""
    now = utc_now()
    return Deployment(
        id=identity,
        model="demo/scripted",
        names=(f"bouchet-{identity}",),
        request=LaunchRequest(model="demo/scripted", partition="gpu_h200"),
        created_at=now,
        updated_at=now,
    )


def listing(house: Office) -> list[Figure]:
    """Measure the list over HTTP, and as a whole command."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=house.api.url, headers=headers) as client:
        asked = timed(lambda: client.get("/v1/deployments", params={"limit": ON_RECORD}).raise_for_status())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BOUCHET_")},
        "BOUCHET_API_URL": house.api.url,
        "BOUCHET_API_KEY": KEY,
        "BOUCHET_ADMIN_KEY": ADMIN_KEY,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def status(*words: str) -> Callable[[], object]:
        argv = [sys.executable, "-m", "bouchet_cli", "status", *words]
        return lambda: subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)

    shown, whole = timed(status()), timed(status("--all"))
    return [
        figure(f"GET /v1/deployments, {ON_RECORD} of them", asked, 300),
        figure(f"bouchet status, {LIVE} live, {ON_RECORD} on record", shown, 300),
        figure(f"bouchet status --all, {ON_RECORD} on record", whole, 300),
    ]


def reconciling(house: Office) -> list[Figure]:
    """Measure the CPU time of one step of the loop, and how often it queried Slurm."""
    probe = SlotProbe("127.0.0.1", 1, SERVING_SECRET)
    observer = Observer(house.context, probe)
    loop = ReconcileLoop(house.context, observer, lambda task, deployment: None)
    for _ in range(2):
        loop.step()
    house.slurm.calls.clear()
    spent: list[float] = []
    for _ in range(TIMES):
        began = time.thread_time()
        loop.step()
        spent.append(time.thread_time() - began)
    asked = house.slurm.programs()
    probe.close()
    assert set(asked) <= {"squeue"}, asked
    per_step = len(asked) / TIMES
    return [
        figure(f"CPU of a reconcile step, {LIVE} live, {ON_RECORD} on record", spent, 100),
        Figure(f"commands on the cluster a step, {LIVE} live jobs", per_step, "", 1),
    ]


def timed(act: Callable[[], object]) -> list[float]:
    """Measure TIMES runs in seconds, after one warm-up."""
    act()
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return seconds


def figure(title: str, seconds: list[float], target_ms: float) -> Figure:
    """Make a figure of the median."""
    return Figure(title, statistics.median(seconds) * 1000, "ms", target_ms, spread(seconds))


def _ended(old: Deployment) -> Deployment:
    return old.moved(Phase.ENDED, utc_now(), reason="cancelled as asked", ending=Ending.CANCELLED)
