"""A worker's loop and a proxy over one Redis, with a fake Slurm whose jobs are real servers behind the real guard."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
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
from tests.fakes.vllm.guarded import serve_guarded
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.client import anthropic_text
from tests.proxy.environment import KEY, SERVING_SECRET, ProxyEnvironment, RunningProxy, run_app
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for
from tests.worker.scenario import REPOSITORY, write_connection

MODEL, ALIAS = "demo/scripted", "hop"
SLOTS, NODE_PORT, CLIENTS = 4, 20001, 4
# a stream of about two seconds
WORDS = " ".join(str(n) for n in range(40))
STREAM = f"SAY[{WORDS}] PACE[0.03]"
WAIT_S = 90.0


@dataclass
class Cluster:
    """Starts every job at once behind its slot, and closes its server when the job has ended."""

    store: Store
    slurm: FakeSlurm
    base_port: int
    servers: dict[str, tuple[FakeVLLM, ExitStack]] = field(default_factory=dict)
    # of ended jobs, by name: what their models were asked to generate, and how many streams were cut
    asked: Counter[str] = field(default_factory=Counter)
    aborted: int = 0
    # jobs from this number on fail to start
    fails_from: int = 1 << 30
    # how long a model loads, and when each one that does is to serve
    loading_s: float = 0.0
    loading: dict[str, tuple[Job, float]] = field(default_factory=dict)

    def step(self) -> None:
        """Start and end what has to be."""
        jobs = {job.slurm_id: job for record in self.store.live() for job in record.jobs}
        for slurm_id, fake in list(self.slurm.jobs.items()):
            job = jobs.get(slurm_id)
            if fake.is_over or fake.state == "PENDING":
                self._close(fake.name)
            if fake.state == "PENDING" and job is not None and number_of(job) >= self.fails_from:
                self.slurm.start(slurm_id)
                self.slurm.finish(slurm_id, "FAILED", "1:0")
            elif fake.state == "PENDING" and job is not None:
                self.loading[job.name] = job, time.monotonic() + self.loading_s
                self._open_loaded()
                self.slurm.start(slurm_id)
                write_connection(self.slurm, slurm_id, NODE_PORT, proves=True, resumes=1)
        self._open_loaded()

    def _open_loaded(self) -> None:
        for name, (job, ready_at) in list(self.loading.items()):
            if time.monotonic() >= ready_at:
                del self.loading[name]
                self._open(job)

    def close(self) -> None:
        """Close all servers."""
        for name in list(self.servers):
            self._close(name)

    def _open(self, job: Job) -> None:
        vllm = FakeVLLM((ALIAS, MODEL), serving_key(SERVING_SECRET, job.name), node_port=NODE_PORT)
        opened = ExitStack()
        opened.enter_context(serve_guarded(vllm, self.base_port + job.slot))
        self.servers[job.name] = vllm, opened

    def _close(self, name: str) -> None:
        self.loading.pop(name, None)
        if name in self.servers:
            vllm, opened = self.servers.pop(name)
            opened.close()
            self.aborted += vllm.aborted
            self.asked[name] += generations(vllm)

    def kill(self, name: str, state: str) -> None:
        """End the job's server at once, then the job in that state: a node that is lost, a job that is preempted."""
        self._close(name)
        slurm_id = next(job.job_id for job in self.slurm.jobs.values() if job.name == name)
        if state == "REQUEUED":
            self.slurm.requeue(slurm_id)
        else:
            self.slurm.finish(slurm_id, state)

    def generated(self) -> int:
        """Return how often a model was asked to generate an answer, by all jobs together."""
        return sum(self.asked.values()) + sum(generations(vllm) for vllm, _ in self.servers.values())


def number_of(job: Job) -> int:
    """Return the number of a job within its deployment."""
    return int(job.name.rpartition("-")[2])


def generations(vllm: FakeVLLM) -> int:
    """Return how many of a server's requests were for an answer."""
    return sum(request["path"] in ("/v1/messages", "/v1/chat/completions") for request in vllm.requests)


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
                events = check_stream("/v1/messages", answer.content) if answer.is_success else []
                if events and events[-1].name == "message_stop" and anthropic_text(events) == WORDS:
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
    worker: Worker

    def restart_worker(self, after_s: float) -> None:
        """Stop the worker, and start another one after that time."""
        self.worker.stop()
        time.sleep(after_s)
        self.worker.start()

    def wait_until_served(self) -> None:
        """Wait until the proxy leads requests to it."""
        headers = {"x-api-key": KEY}
        wait_for(lambda: httpx.get(f"{self.proxy.url}/v1/models/{ALIAS}", headers=headers).is_success, WAIT_S)

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


class Worker:
    """The loop of a worker in a thread, whose tasks run at once. stop and start are a worker that is away."""

    def __init__(self, context: WorkerContext, probe: SlotProbe) -> None:
        self._context, self._probe, self._number = context, probe, 1
        self._stopping = threading.Event()
        self._thread = threading.Thread()

    def start(self) -> None:
        """Start a worker with a name of its own."""
        context = replace(self._context, owner=f"worker-{self._number}")
        tasks = {TaskName.SUBMIT: submit, TaskName.CANCEL: cancel}

        def run_task(task: TaskName, deployment: str) -> None:
            tasks[task](context, deployment)

        self._number += 1
        self._stopping = threading.Event()
        loop = ReconcileLoop(context, Observer(context, self._probe), run_task)
        self._thread = threading.Thread(target=loop.run, args=(self._stopping,))
        self._thread.start()

    def stop(self) -> None:
        """Stop it."""
        self._stopping.set()
        self._thread.join()


@contextmanager
def running_service(store: Store, redis_server: RedisServer, tmp_path: Path) -> Iterator[Both]:
    """Run both, and end them."""
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
        probe = SlotProbe("127.0.0.1", base, SERVING_SECRET)
        worker = Worker(worker_context(store, gateway), probe)

        def nodes() -> None:
            while not stopping.wait(0.1):
                cluster.step()

        thread = threading.Thread(target=nodes)
        thread.start()
        worker.start()
        try:
            yield Both(store, slurm, cluster, proxy, worker)
        finally:
            worker.stop()
            stopping.set()
            thread.join()
            cluster.close()
            probe.close()


def worker_context(store: Store, gateway: GatewayClient) -> WorkerContext:
    """Return the context of a worker on the demo's site."""
    site_file = REPOSITORY / "sites" / "demo.yaml"
    site = load_site(site_file)
    return WorkerContext(
        store=store,
        gateway=gateway,
        site=site,
        catalog=load_catalog(*catalogs_of(site_file, site, REPOSITORY / "models.yaml")),
        scripts=load_scripts(REPOSITORY / "remote"),
        serving_secret=SERVING_SECRET,
        slot_count=SLOTS,
        owner="worker",
    )
