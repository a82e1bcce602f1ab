"""Worker and proxy over one Redis: a job hands over to its successor while clients stream, and a parked model wakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from bouchet_core.config.catalog import load_catalog
from bouchet_core.config.job_scripts import load_scripts
from bouchet_core.config.site import catalogs_of, load_site
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Traits
from bouchet_core.gateway_client import NO_TLS, GatewayClient
from bouchet_core.keys import serving_key
from bouchet_core.policy import Policy
from bouchet_core.store import Store
from bouchet_core.tasks import TaskName
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.conftest import RedisServer, free_ports
from tests.fakes.slurm_gateway import TOKEN, FakeSlurm, gateway_server
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.environment import KEY, SERVING_SECRET, ProxyEnvironment, RunningProxy, run_app
from tests.waiting import wait_for
from tests.worker.scenario import REPOSITORY, write_connection

MODEL, ALIAS = "demo/scripted", "hop"
SLOTS, NODE_PORT, CLIENTS = 4, 20001, 4
# a stream of about two seconds
STREAM = "SAY[" + " ".join(str(n) for n in range(40)) + "] PACE[0.03]"
WAIT_S = 90.0


@dataclass
class Cluster:
    """Starts every job at once behind its slot, and closes its server when the job has ended."""

    store: Store
    slurm: FakeSlurm
    base_port: int
    servers: dict[str, tuple[FakeVLLM, ExitStack]] = field(default_factory=dict)
    aborted: int = 0

    def step(self) -> None:
        """Start and end what has to be."""
        jobs = {job.slurm_id: job for record in self.store.live() for job in record.jobs}
        for slurm_id, fake in list(self.slurm.jobs.items()):
            job = jobs.get(slurm_id)
            if fake.is_over:
                self._close(fake.name)
            elif job is not None and fake.name not in self.servers:
                self._open(job)
                self.slurm.start(slurm_id)
                write_connection(self.slurm, slurm_id, NODE_PORT, proves=True)

    def close(self) -> None:
        """Close all servers."""
        for name in list(self.servers):
            self._close(name)

    def _open(self, job: Job) -> None:
        vllm = FakeVLLM((ALIAS, MODEL), serving_key(SERVING_SECRET, job.name), node_port=NODE_PORT)
        opened = ExitStack()
        opened.enter_context(serve_vllm(vllm, self.base_port + job.slot))
        self.servers[job.name] = vllm, opened

    def _close(self, name: str) -> None:
        if name in self.servers:
            vllm, opened = self.servers.pop(name)
            opened.close()
            self.aborted += vllm.aborted


@dataclass
class Clients:
    """Threads that stream one answer after another. problems: what was not answered whole."""

    url: str
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        """Stream until stopped."""
        body = {"model": ALIAS, "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": STREAM}]}
        headers = {"x-api-key": KEY, "x-claude-code-session-id": f"session-{number}"}
        with httpx.Client(verify=NO_TLS, timeout=WAIT_S, headers=headers) as http:
            while not self._stopping.is_set():
                try:
                    answer = http.post(f"{self.url}/v1/messages", json=body)
                except httpx.HTTPError as exc:
                    self.problems.append(repr(exc))
                    continue
                whole = answer.status_code == 200 and '"message_stop"' in answer.text and "39" in answer.text
                if whole and '"error"' not in answer.text:
                    self.answered += 1
                else:
                    self.problems.append(f"{answer.status_code} {answer.text[-300:]}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all of them."""
        threads = [threading.Thread(target=self.run, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()


@dataclass
class Both:
    """A worker's loop and a proxy at work."""

    store: Store
    slurm: FakeSlurm
    cluster: Cluster
    proxy: RunningProxy

    def create(self, policy: Policy) -> None:
        """Create the deployment as the API does."""
        now = datetime.now(UTC)
        request = LaunchRequest(model=MODEL, time="01:00:00", partition="gpu_h200", idle_timeout_min=1)
        record = Deployment(
            id="aa", model=MODEL, names=(ALIAS, MODEL), request=request, created_at=now, updated_at=now, policy=policy
        )
        self.store.create(record.model_copy(update={"traits": Traits(max_output=200)}))

    @property
    def record(self) -> Deployment:
        """The deployment."""
        return self.store.get("aa")

    def wait_for_job(self, number: int, phase: Phase) -> None:
        """Wait until that job is in that phase."""
        name = f"bouchet-aa-{number}"

        def there() -> bool:
            attempt = self.record.attempt(name)
            return attempt is not None and attempt.phase is phase

        wait_for(there, WAIT_S, lambda: self.record.model_dump_json(indent=1)[-3000:])

    def near_its_end(self, number: int) -> None:
        """Move the start of the job back, so that its successor is due."""
        name = f"bouchet-aa-{number}"

        def change(old: Deployment) -> Deployment:
            job = next(job for job in old.jobs if job.name == name)
            started = datetime.now(UTC) + timedelta(seconds=160 - 3600)
            aged = job.model_copy(update={"since": {**job.since, Phase.STARTING: started}})
            return old.with_job(aged, datetime.now(UTC))

        self.store.update("aa", change)


@pytest.fixture
def both(store: Store, redis_server: RedisServer, tmp_path: Path) -> Iterator[Both]:
    site = load_site(REPOSITORY / "sites" / "demo.yaml")
    base, slurm = free_ports(SLOTS), FakeSlurm()
    cluster, stopping = Cluster(store, slurm, base), threading.Event()
    environment = ProxyEnvironment(
        tmp_path, redis_server.port, redis_server.password, store, base, FakeVLLM((), "never served")
    )
    with (
        gateway_server(slurm) as server,
        GatewayClient(server.url, TOKEN) as gateway,
        run_app(environment, hold_starting_s=WAIT_S) as proxy,
    ):
        context = WorkerContext(
            store=store,
            gateway=gateway,
            site=site,
            catalog=load_catalog(*catalogs_of(REPOSITORY / "sites" / "demo.yaml", site, REPOSITORY / "models.yaml")),
            scripts=load_scripts(REPOSITORY / "remote"),
            serving_secret=SERVING_SECRET,
            slot_count=SLOTS,
            owner="worker-1",
        )
        probe = SlotProbe("127.0.0.1", base, SERVING_SECRET)
        tasks = {TaskName.SUBMIT: submit, TaskName.CANCEL: cancel}

        def run_task(task: TaskName, deployment: str) -> None:
            tasks[task](context, deployment)

        loop = ReconcileLoop(context, Observer(context, probe), run_task)

        def nodes() -> None:
            while not stopping.wait(0.1):
                cluster.step()

        threads = [threading.Thread(target=loop.run, args=(stopping,)), threading.Thread(target=nodes)]
        for thread in threads:
            thread.start()
        try:
            yield Both(store, slurm, cluster, proxy)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
            cluster.close()
            probe.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_hand_overs_under_load_fail_no_request_and_cut_no_stream(both: Both) -> None:
    both.create(Policy(keep="forever"))
    both.wait_for_job(1, Phase.READY)
    clients = Clients(both.proxy.url)
    wait_for(lambda: httpx.get(f"{both.proxy.url}/v1/models/{ALIAS}", headers={"x-api-key": KEY}).is_success, WAIT_S)
    with clients.running():
        for number in (1, 2, 3):
            both.near_its_end(number)
            both.wait_for_job(number + 1, Phase.READY)
            both.wait_for_job(number, Phase.ENDED)
    assert clients.problems == [] and clients.answered >= CLIENTS
    assert both.cluster.aborted == 0, "a job ended while it was answering"
    assert len(both.slurm.jobs) == 4, "one successor for each job"
    ended = [job for job in both.record.jobs if not job.is_live]
    assert [job.reason.startswith("retired: nothing is open on it") for job in ended] == [True] * 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_parked_model_wakes_for_a_held_stream(both: Both) -> None:
    both.create(Policy(on_demand=True))
    wait_for(lambda: both.record.phase is Phase.PARKED, WAIT_S)
    assert both.slurm.jobs == {}
    body = {"model": ALIAS, "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "SAY[hello]"}]}
    headers = {"x-api-key": KEY}
    wait_for(lambda: ALIAS in httpx.get(f"{both.proxy.url}/v1/models", headers=headers).text, WAIT_S)
    began = time.monotonic()
    answer = httpx.post(f"{both.proxy.url}/v1/messages", json=body, headers=headers, timeout=WAIT_S, verify=NO_TLS)
    assert "hello" in answer.text and '"error"' not in answer.text, answer.text
    print(f"woken and answered in {time.monotonic() - began:.1f} s")
    assert [one.action for one in both.record.service.decisions] == ["park", "wake"]
