"""`python -m tests.soak.hand_over [HOPS [KILLS [SEED]]]`: hand-overs in short time, while services are killed.

Worker, API, proxy and Redis are processes; Slurm is a fake whose jobs are model servers behind the job's real guard,
and they are reached through a process that takes the gateway's place. Eight clients stream one answer after another.
Jobs come near their end at random moments, and a random service but the proxy, which has the clients' connections, is
killed and started again. No answer may be lost, none made twice, no request may wait without an end; a job has one
successor at most, and Slurm has no job that the record does not know.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from bouchet_core.deployments import Deployment, LaunchRequest, Phase, Traits
from bouchet_core.errors import StoreError
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.policy import Policy
from bouchet_core.store import Store

from tests.bench.figures import Figure, render
from tests.conftest import RedisServer, free_port, free_ports, start_redis
from tests.fakes.running_worker import worker_environment
from tests.fakes.slurm_gateway import FakeSlurm, gateway_server
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.client import anthropic_text
from tests.proxy.environment import KEY, ProxyEnvironment, run_direct_process
from tests.proxy.stream_checker import check_stream
from tests.service.running import ALIAS, MODEL, SLOTS, Cluster
from tests.waiting import wait_for

CLIENTS, WAIT_S = 8, 180.0
# longer than any hold of the proxy: what is open for so long waits without an end
LONGEST_S = 300.0
# is printed
SLOW_S = 30.0
VICTIMS = ("worker", "api", "redis", "gateway")
ADMIN_KEY = "admin-key-of-the-soak-0123456789"
WORDS = "one two three four five six seven eight nine ten"
CALL = 'CALL[bash {"command": "ls -l /tmp and more of that"}]'


class CountingCluster(Cluster):
    """Remembers the prompts that models were asked to answer, those of ended jobs too."""

    def __init__(self, store: Store, slurm: FakeSlurm, base_port: int) -> None:
        super().__init__(store, slurm, base_port)
        self._prompts: Counter[str] = Counter()

    def step(self) -> None:
        """Start and end what has to be; while Redis is away nothing moves."""
        with suppress(StoreError):
            super().step()

    def run(self, stopping: threading.Event) -> None:
        """Do so until stopped."""
        while not stopping.wait(0.1):
            self.step()

    def prompts(self) -> Counter[str]:
        """Return how often each prompt of a client was sent to a model."""
        return self._prompts + sum((asked_of(vllm) for vllm, _ in list(self.servers.values())), Counter[str]())

    def _close(self, name: str) -> None:
        if name in self.servers:
            self._prompts += asked_of(self.servers[name][0])
        super()._close(name)


ClusterT = TypeVar("ClusterT", bound=CountingCluster)


def asked_of(vllm: FakeVLLM) -> Counter[str]:
    """Return how often one server was sent each prompt of a client."""
    found = Counter[str]()
    for request in list(vllm.requests):
        messages = request["body"].get("messages") or [{}]
        content = messages[0].get("content")
        text = content if isinstance(content, str) else "".join(one.get("text", "") for one in content or ())
        if text.startswith("N") and not request["path"].endswith("count_tokens"):
            found[text.split()[0]] += 1
    return found


@dataclass
class Agents:
    """Clients that stream until they are stopped. open: what each waits for, and since when."""

    url: str
    rng: random.Random
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    slowest_s: float = 0.0
    open: dict[int, tuple[str, float]] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        """Stream, with pauses."""
        headers, count = {"x-api-key": KEY, "x-claude-code-session-id": f"session-{number}"}, 0
        with httpx.Client(verify=NO_TLS, timeout=LONGEST_S, headers=headers) as http:
            while not self._stopping.wait(self.rng.uniform(0, 0.5)):
                count += 1
                self._ask(http, number, f"N{number}-{count}")

    def _ask(self, http: httpx.Client, number: int, name: str) -> None:
        words = " ".join([WORDS] * self.rng.randint(1, 12))
        call = CALL if self.rng.random() < 0.3 else ""
        text = f"{name} SAY[{words}] {call} PACE[{self.rng.uniform(0.005, 0.04):.3f}]"
        body = {"model": ALIAS, "max_tokens": 500, "stream": True, "messages": [{"role": "user", "content": text}]}
        self.open[number] = name, time.monotonic()
        try:
            answer = http.post(f"{self.url}/v1/messages", json=body)
            events = check_stream("/v1/messages", answer.content) if answer.is_success else []
            is_whole = bool(events) and events[-1].name == "message_stop" and anthropic_text(events) == words
            if not is_whole:
                self.problems.append(f"{name}: {answer.status_code} {answer.text[-300:]}")
        except (httpx.HTTPError, AssertionError) as exc:
            self.problems.append(f"{name}: {exc!r}")
        took_s = time.monotonic() - self.open.pop(number)[1]
        if took_s > SLOW_S:
            print(f"{time.strftime('%T')} {name} took {took_s:.0f} s", flush=True)
        self.slowest_s = max(self.slowest_s, took_s)
        self.answered += 1

    def waiting(self, limit_s: float) -> list[str]:
        """Return the requests that have been open for longer than that."""
        now = time.monotonic()
        return [f"{name} for {now - began:.0f} s" for name, began in list(self.open.values()) if now - began > limit_s]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all of them."""
        threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            deadline = time.monotonic() + LONGEST_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            self.problems += [f"still open: {one}" for one in self.waiting(0)]


@dataclass
class House:
    """The services as processes. kill and start are a crash, and Docker's restart."""

    directory: Path
    redis: RedisServer
    commands: dict[str, tuple[list[str], dict[str, str]]]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    proxy_pid: int | None = None

    def start(self, name: str) -> None:
        """Start a service."""
        if name == "redis":
            self.redis = start_redis(self.redis.directory, self.redis.port, "always")
            return
        argv, environment = self.commands[name]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """Kill a service."""
        process = self.redis.process if name == "redis" else self.processes[name]
        process.kill()
        process.wait()

    def kill_at_random(self, count: int, rng: random.Random, stopping: threading.Event) -> None:
        """Kill that many, each of which comes back."""
        for number in range(count):
            if stopping.wait(rng.uniform(0.2, 4)):
                return
            name = VICTIMS[number % len(VICTIMS)] if number < len(VICTIMS) else rng.choice(VICTIMS)
            print(f"{time.strftime('%T')} {name} is killed", flush=True)
            self.kill(name)
            self.kills[name] += 1
            stopping.wait(rng.uniform(0, 1))
            self.start(name)

    def close(self) -> None:
        """End all of them."""
        for process in (*self.processes.values(), self.redis.process):
            process.kill()
            process.wait()


@dataclass
class Watch:
    """Looks at Slurm all the time. most_live, most_coming: jobs, and successors that do not serve yet."""

    slurm: FakeSlurm
    store: Store
    most_live: int = 0
    most_coming: int = 0

    def run(self, stopping: threading.Event) -> None:
        """Look until stopped."""
        while not stopping.wait(0.05):
            live = [job for job in list(self.slurm.jobs.values()) if not job.is_over]
            self.most_live = max(self.most_live, len(live))
            with suppress(StoreError):
                coming = [job for job in self.store.get("aa").live_jobs if job.phase is not Phase.READY]
                fresh = [job for job in coming if job.stop_requested_at is None and job.leaving_since is None]
                self.most_coming = max(self.most_coming, len(fresh))


def api_command(directory: Path, redis: RedisServer, gateway_url: str) -> tuple[list[str], dict[str, str]]:
    """Return how the API is started; its secrets are written into a folder of its own."""
    secrets = directory / "secrets-api"
    secrets.mkdir()
    worker = worker_environment(secrets, redis_port=redis.port, gateway_url=gateway_url)
    for name in ("admin_key", "chat_key", "attach_secret"):
        (secrets / name).write_text(ADMIN_KEY)
    more = {"API_PORT": str(free_port()), "LEDGER_DIR": str(directory), "PINS_DIR": str(directory)}
    return [sys.executable, "-m", "bouchet_api"], worker | more


def create(store: Store) -> None:
    """Create the deployment as the API does."""
    now = datetime.now(UTC)
    request = LaunchRequest(model=MODEL, time="01:00:00", partition="gpu_h200", idle_timeout_min=60)
    policy, traits = Policy(keep="forever"), Traits(max_output=200)
    names = (ALIAS, MODEL)
    record = Deployment(
        id="aa", model=MODEL, names=names, request=request, created_at=now, updated_at=now, policy=policy
    )
    store.create(record.model_copy(update={"traits": traits}))


def age(store: Store, number: int) -> bool:
    """Move the start of that job back, so that its successor is due; return False while Redis is away."""

    def change(old: Deployment) -> Deployment:
        job = next(job for job in old.jobs if job.name.endswith(f"-{number}"))
        since = {**job.since, Phase.STARTING: datetime.now(UTC) + timedelta(seconds=160 - 3600)}
        return old.with_job(job.model_copy(update={"since": since}), datetime.now(UTC))

    try:
        store.update("aa", change)
    except StoreError:
        return False
    return True


def is_in(store: Store, number: int, phase: Phase) -> bool:
    """Return whether that job is known to be in that phase."""
    try:
        jobs = store.get("aa").jobs
    except StoreError:
        return False
    return any(job.phase is phase for job in jobs if job.name.endswith(f"-{number}"))


def hop(store: Store, hops: int, rng: random.Random, agents: Agents) -> None:
    """Let that many jobs hand over, each at a random moment."""
    for number in range(1, hops + 1):
        time.sleep(rng.uniform(0, 5))
        wait_for(partial(age, store, number), WAIT_S)
        wait_for(partial(is_in, store, number + 1, Phase.READY), WAIT_S)
        wait_for(partial(is_in, store, number, Phase.ENDED), WAIT_S)
        assert not agents.waiting(LONGEST_S), agents.waiting(LONGEST_S)
        print(f"hop {number}: {agents.answered} answers, slowest {agents.slowest_s:.1f} s", flush=True)


@contextmanager
def service(directory: Path, make_cluster: type[ClusterT]) -> Iterator[tuple[House, Store, ClusterT, str]]:
    """Run all of it; yield the services, a store, the cluster, and the proxy's URL."""
    (directory / "redis").mkdir()
    redis = start_redis(directory / "redis", free_port(), "always")
    slurm, slots, nodes, stopping = FakeSlurm(), free_ports(SLOTS), free_ports(SLOTS), threading.Event()
    with ExitStack() as opened:
        store = redis.store()
        opened.callback(store.close)
        cluster = make_cluster(store, slurm, nodes)
        target = opened.enter_context(gateway_server(slurm)).url
        api_port = free_port()
        pairs = [f"{api_port}:{target.rpartition(':')[2]}", *(f"{slots + n}:{nodes + n}" for n in range(SLOTS))]
        gateway_url = f"http://127.0.0.1:{api_port}"
        worker = worker_environment(
            directory, redis_port=redis.port, gateway_url=gateway_url, slot_port=slots, slots=SLOTS
        )
        commands = {
            "gateway": ([sys.executable, "-m", "tests.soak.gateway_process", *pairs], dict(worker)),
            "worker": ([sys.executable, "-m", "bouchet_worker"], {**worker, "WORKER_NAME": "worker"}),
            "api": api_command(directory, redis, gateway_url),
        }
        house = House(directory, redis, commands)
        opened.callback(house.close)
        environment = ProxyEnvironment(directory, redis.port, redis.password, store, slots, FakeVLLM((), "none"))
        proxy = opened.enter_context(run_direct_process(environment, hold_s=240))
        house.proxy_pid = proxy.pid
        for name in commands:
            house.start(name)
        nodes_thread = threading.Thread(target=cluster.run, args=(stopping,))
        nodes_thread.start()
        opened.callback(cluster.close)
        opened.callback(nodes_thread.join)
        opened.callback(stopping.set)
        yield house, store, cluster, proxy.url


def check(hops: int, kills: int, seed: int, directory: Path) -> bool:
    """Run it; return whether everything held."""
    rng, stopping = random.Random(seed), threading.Event()
    with service(directory, CountingCluster) as (house, store, cluster, url):
        create(store)
        wait_for(partial(is_in, store, 1, Phase.READY), WAIT_S, lambda: read_logs(directory))
        agents, watch = Agents(url, random.Random(seed + 1)), Watch(cluster.slurm, store)
        watcher = threading.Thread(target=watch.run, args=(stopping,))
        killer = threading.Thread(target=house.kill_at_random, args=(kills, random.Random(seed + 2), stopping))
        watcher.start()
        began = time.monotonic()
        try:
            with agents.running():
                killer.start()
                hop(store, hops, rng, agents)
                killer.join(WAIT_S * kills)
        finally:
            stopping.set()
            killer.join()
            watcher.join()
        took_s, asked = time.monotonic() - began, cluster.prompts()
        submitted = [job.name for job in cluster.slurm.jobs.values()]
        known = {job.name for job in store.get("aa").jobs}
    print("\n".join(agents.problems[:20]))
    twice = [name for name, count in asked.items() if count > 1]
    print(f"{hops} hops in {took_s:.0f} s, {agents.answered} answers, slowest {agents.slowest_s:.1f} s")
    figures = [
        Figure("services killed", sum(house.kills.values()), "", kills, str(dict(house.kills)), at_least=True),
        Figure("answers lost or cut", len(agents.problems), "", 0),
        Figure("requests that reached no model", agents.answered - len(asked), "", 0),
        Figure("requests sent to a model twice", len(twice), "", 0),
        Figure("streams cut by the end of a job", cluster.aborted, "", 0),
        Figure("jobs at a time", watch.most_live, "", 2),
        Figure("successors at a time", watch.most_coming, "", 1),
        Figure("jobs submitted beside one a hop", len(submitted) - hops - 1, "", 0),
        Figure("orphans", len(set(submitted[-8:]) - known), "", 0),
    ]
    print(render(figures))
    return all(figure.is_met for figure in figures)


def read_logs(directory: Path) -> str:
    """Return the end of what the services wrote."""
    return "".join(path.read_text(errors="replace")[-3000:] for path in directory.glob("*.log"))


def main() -> int:
    """Run it with the numbers of the command line; return 1 if something failed."""
    numbers = [int(text) for text in sys.argv[1:]]
    hops, kills, seed = (*numbers, *(10, 50, random.randrange(1 << 30))[len(numbers) :])
    print(f"{hops} hops, {kills} kills, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        return int(not check(hops, kills, seed, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
