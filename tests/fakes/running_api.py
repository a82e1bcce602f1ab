"""The real API on a port of its own, over a real Redis and the fake gateway's API."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import httpx
import uvicorn
from bouchet_api.app import create_app
from bouchet_api.dependencies import AppState, open_state
from bouchet_api.ledger.tables import metadata
from bouchet_api.settings import ApiSettings
from bouchet_core.keys import attach_secret, chat_key
from bouchet_core.store import Store
from bouchet_core.tasks import MODULE, QUEUE
from fastapi import FastAPI
from pydantic import SecretStr
from rq import Queue

from tests.conftest import RedisServer, free_port, start_redis
from tests.fakes.gateway_api import TOKEN, FakeGateway
from tests.waiting import wait_for

# of the API, and of a proxy beside it
ADMIN_KEY, KEY = "admin-key-of-the-tests-0123456789", "key-of-the-tests-0123456789"
SERVING_SECRET = "serving-secret-of-the-tests"
START_TIMEOUT_S = 60.0
PINS = Path(__file__).parents[2] / "apptainer" / "pins"
CATALOG = """
default: Qwen/Qwen3-Coder-Next-FP8
models:
  Qwen/Qwen3-Coder-Next-FP8:
    {alias: bouchet-qwen3-coder-next, description: "80B MoE, the best default", gpus: 1, window: 262144,
     tool_parser: qwen3_coder}
  Qwen/Qwen3-32B:
    {alias: bouchet-qwen3-32b, description: "32B dense", gpus: 1, window: 40960, quant: fp8, thinking: "off",
     tool_parser: hermes, reasoning_parser: qwen3, max_output: 8192}
"""
SITE = """
name: tests
login: {host: login}
root: /data/bouchet
models_dir: /data/models
images_dir: /data/images
default_image: cpu
images: [{pin: cpu, vllm: 0.32.0}]
partitions: [{name: gpu_h200, max_walltime: "2-00:00:00", max_gpus: 16, auto: true}]
"""


@dataclass(frozen=True)
class RunningApi:
    """A live API. `state` is its own, with the API's rights in Redis; tests write records through `store`."""

    url: str
    state: AppState
    store: Store
    gateway: FakeGateway
    app: FastAPI


class GatewayAddress(Protocol):
    """What is needed of a gateway."""

    @property
    def url(self) -> str: ...


def settings(
    directory: Path, redis: RedisServer, gateway: GatewayAddress, proxy_url: str = "http://127.0.0.1:9"
) -> ApiSettings:
    """Return the settings of an API over these; the catalog and site file are written into `directory`."""
    catalog, site = directory / "models.yaml", directory / "site.yaml"
    catalog.write_text(CATALOG)
    site.write_text(SITE)
    return ApiSettings(
        site_file=site,
        catalog=catalog,
        redis_host="127.0.0.1",
        redis_port=redis.port,
        gateway_url=gateway.url,
        proxy_url=proxy_url,
        chat_key=SecretStr(chat_key(KEY)),
        attach_secret=SecretStr(attach_secret(SERVING_SECRET)),
        api_port=0,
        log_level="WARNING",
        admin_key=SecretStr(ADMIN_KEY),
        redis_password=SecretStr(redis.password),
        gateway_token=SecretStr(TOKEN),
        pins_dir=PINS,
        ledger_dir=directory,
    )


def reset_api(api: RunningApi) -> RunningApi:
    """Delete all records of the API and all rows of its ledger, and reset its gateway, for the next test."""
    # what the ledger's thread has read already would be stored after its tables were emptied
    wait_for(lambda: api.store.ledger.waiting() == 0)
    with api.state.ledger.database.begin() as connection_to_ledger:
        for table in metadata.sorted_tables:
            connection_to_ledger.execute(table.delete())
    connection = api.store.queue_connection()
    connection.flushall()
    connection.close()
    api.gateway.reset()
    return api


@contextmanager
def running_api_and_redis(directory: Path) -> Iterator[RunningApi]:
    """Start the API with a Redis and a gateway of its own."""
    (directory / "redis").mkdir()
    redis = start_redis(directory / "redis", free_port())
    try:
        with FakeGateway() as gateway, running(directory, redis, gateway) as api:
            yield api
    finally:
        redis.process.kill()
        redis.process.wait()


@contextmanager
def running(
    directory: Path,
    redis: RedisServer,
    gateway: GatewayAddress,
    *,
    port: int = 0,
    proxy_url: str = "http://127.0.0.1:9",
    change: Callable[[ApiSettings], ApiSettings] = lambda settings: settings,
) -> Iterator[RunningApi]:
    """Start the API over this Redis and gateway. port: 0 for a free one. change: of its settings."""
    with (
        contextlib.closing(redis.store()) as store,
        open_state(change(settings(directory, redis, gateway, proxy_url))) as state,
        socket.socket() as listener,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        app = create_app(state, ADMIN_KEY)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started, START_TIMEOUT_S)
            yield RunningApi(
                f"http://127.0.0.1:{listener.getsockname()[1]}", state, store, cast(FakeGateway, gateway), app
            )
        finally:
            server.should_exit = True
            thread.join()


def queued_tasks(store: Store) -> list[tuple[str, str]]:
    """Return name and first argument of every task on the queue, oldest first; '' for a task without one."""
    connection = store.queue_connection()
    jobs = Queue(QUEUE, connection=connection, serializer="json").jobs
    connection.close()
    return [(str(job.func_name).removeprefix(MODULE), str(next(iter(job.args), ""))) for job in jobs]


def read_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield each event of a stream: its `id`, `event` and parsed `data`, as far as it has them."""
    event: dict[str, Any] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if not line and event:
            yield event
            event = {}
        elif name == "data":
            event["data"] = json.loads(value)
        elif name in ("id", "event"):
            event[name] = value
