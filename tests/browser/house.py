"""All that a browser needs: the real API, proxy and Redis, a fake vLLM, and a scene of records that is kept alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_core.tasks import MODULE, QUEUE, TaskName
from rq import Queue
from rq.job import Job as RqJob
from rq.results import Result

from tests.browser.scene import QWEN_NAME, SERVING_JOB, keep_alive, placement, point, set_scene
from tests.conftest import RedisServer, free_port, free_ports, start_redis
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import RunningApi, reset_api, running
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.environment import SERVING_SECRET, SLOTS, ProxyEnvironment, run_app
from tests.waiting import wait_for

WINDOW = 262_144
LOG = "/data/bouchet/logs/812345.log"


@dataclass
class House:
    """A running installation. `stop_api` and `start_api` let the API go and come back on the same port."""

    directory: Path
    redis: RedisServer
    gateway: FakeGateway
    proxy_url: str
    store: Store
    has_proxy: bool = True
    port: int = field(default_factory=free_port)
    _api: ExitStack = field(default_factory=ExitStack)
    api: RunningApi | None = None

    @property
    def url(self) -> str:
        """The address of the dashboard."""
        return f"http://127.0.0.1:{self.port}"

    def start_api(self) -> None:
        """Start the API."""
        made = running(self.directory, self.redis, self.gateway, port=self.port, proxy_url=self.proxy_url)
        self.api = self._api.enter_context(made)

    def stop_api(self) -> None:
        """Stop the API; its open streams are cut."""
        self._api.close()
        self.api = None

    def reset(self) -> None:
        """Empty Redis and the ledger, and set the scene again."""
        if self.api is None:
            self.start_api()
        assert self.api is not None
        reset_api(self.api)
        self.gateway.tunnel |= {"round_trip_ms": 14.0, "host": "bouchet.ycrc.yale.edu"}
        lines = [f"INFO 11-30 12:00:{number % 60:02} loading weights, part {number}" for number in range(40)]
        self.gateway.files[LOG] = "\n".join([*lines, "\x1b[31mred\x1b[0m <script>window.bad=1</script>", ""]).encode()
        set_scene(self.store, with_proxy=self.has_proxy)


@contextmanager
def open_house(directory: Path, *, with_proxy: bool = True) -> Iterator[House]:
    """Start everything, with its scene. Without the proxy, the scene's own requests are shown."""
    (directory / "redis").mkdir()
    redis = start_redis(directory / "redis", free_port())
    base_port, store = free_ports(SLOTS), redis.store()
    vllm = FakeVLLM((QWEN_NAME,), serving_key(SERVING_SECRET, SERVING_JOB), WINDOW)
    environment = ProxyEnvironment(directory, redis.port, redis.password, store, base_port, vllm)
    try:
        with ExitStack() as opened:
            gateway = opened.enter_context(FakeGateway())
            opened.enter_context(serve_vllm(vllm, base_port))
            proxy_url = opened.enter_context(run_app(environment)).url if with_proxy else "http://127.0.0.1:9"
            house = House(directory, redis, gateway, proxy_url, store, with_proxy)
            opened.callback(house.stop_api)
            house.reset()
            yield house
    finally:
        store.close()
        redis.stop()


def keep_scene_alive(house: House, seconds: float, stopping: threading.Event | None = None) -> None:
    """Renew, for that long, what worker and proxy would: a figure in five seconds, the list of requests each second."""
    began, number = time.monotonic(), 0
    while time.monotonic() - began < seconds and not (stopping is not None and stopping.is_set()):
        keep_alive(house.store, with_proxy=house.has_proxy)
        if number % 5 == 0:
            house.store.live_view.add_points([point(time.time(), number)])
        number += 1
        time.sleep(1)


@contextmanager
def answered_preview(store: Store) -> Iterator[None]:
    """Answer the next preview as a worker would."""
    place = placement(1, 6).model_copy(update={"why": "gpu_h200 starts first"})
    answer = {
        "job_name": "bouchet-preview-1",
        "placement": place.model_dump(mode="json"),
        "image": "cpu.sif",
        "window": 40960,
        "memory": {"window": 40960, "note": "about 12 conversations of the full window fit"},
        "folder": "~/b/jobs/bouchet-preview-1",
        "script": "#!/bin/bash\nvllm serve\n",
        "command": ["sbatch", "x"],
        "cost": "6 h x 1 H200 = 1,800 SU",
        "files": {},
    }
    with answered(store, TaskName.PREVIEW, answer):
        yield


@contextmanager
def answered(store: Store, task: TaskName, answer: object) -> Iterator[None]:
    """Answer the next task of that name as a worker would."""
    connection = store.queue_connection()
    queue = Queue(QUEUE, connection=connection, serializer="json")
    known = set(queue.job_ids)

    def is_asked(one: RqJob) -> bool:
        return one.id not in known and one.func_name == MODULE + task

    def work() -> None:
        job = wait_for(lambda: next((one for one in queue.jobs if is_asked(one)), None))
        Result.create(job, Result.Type.SUCCESSFUL, 60, return_value={"answer": answer})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        connection.close()
