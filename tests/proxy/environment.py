"""A proxy to test: Redis, a fake vLLM behind slot 0, and the app in a thread or the whole proxy as a process."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Traits
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_proxy.app import ProxyApp
from bouchet_proxy.asgi import App, Message, Receive, Scope, Send
from bouchet_proxy.backends.direct import DirectBackend
from bouchet_proxy.http.server_protocol import BoundedHeadProtocol
from bouchet_proxy.refresh import STALE_S, KeyTableThread, RoutingTableThread
from bouchet_proxy.routing.load import LoadReporter, LoadTracker
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.usage.live import LiveReporter, OpenRequests
from bouchet_proxy.usage.recorder import UsageRecorder
from pydantic import SecretStr

from tests.conftest import free_port
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.stream_checker import IllegalStreamError, check_stream
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
KEY, SERVING_SECRET, JOB = "key-of-the-tests-0123456789", "serving-secret", "bouchet-tiny-1"
ALIAS, MODEL, WINDOW = "tiny", "org/Tiny-Model", 4096
SLOTS = 4
# the fake's port on its node, as the records have it; behind the slot it listens on another one
NODE_PORT = 1234
COUNTER = itertools.count(1)
START_TIMEOUT_S = 400.0
# how long a request waits for a model: enough for a test to make it ready
HOLD_S = 3.0
IMAGE_VARIABLE = "BOUCHET_PROXY_IMAGE"
# label of a test's container: the pid of the process that started it
LABEL = "bouchet.test.runner"
CATALOG = {"org/Other": "other", "other": "other", "org/tiny-model": ALIAS, ALIAS: ALIAS}
THINKING = Traits(thinking="off", tool_parser="hermes", reasoning_parser="qwen3", max_output=8192)


@dataclass
class ProxyEnvironment:
    """What a proxy needs around it. Slot n is port slot_base_port + n; `vllm` is the fake behind slot 0."""

    directory: Path
    redis_port: int
    redis_password: str
    store: Store
    slot_base_port: int
    vllm: FakeVLLM

    def settings(self, port: int, direct: bool = True) -> ProxySettings:
        """Return settings for a proxy in this environment."""
        return ProxySettings(
            api_key=SecretStr(KEY),
            serving_secret=SecretStr(SERVING_SECRET),
            redis_password=SecretStr(self.redis_password),
            redis_host="127.0.0.1",
            redis_port=self.redis_port,
            port=port,
            slot_host="127.0.0.1",
            slot_base_port=self.slot_base_port,
            slot_count=SLOTS,
            direct=direct,
            hold_starting_s=HOLD_S,
        )

    def move(self, deployment_id: str, phase: Phase) -> None:
        """Move a deployment to that phase."""
        self.store.update(deployment_id, lambda d: d.moved(phase, datetime.now(UTC)))


@dataclass
class RunningProxy:
    """A running proxy. pid: of the process that holds LiteLLM, None where there is none."""

    url: str
    environment: ProxyEnvironment
    pid: int | None = None
    # of an app in this process
    open_requests: OpenRequests | None = None


class StreamRecorder:
    """An ASGI app around another that records what is wrong with the streams that it sends."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.problems: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        data, is_stream, is_complete = bytearray(), False, False

        async def record(message: Message) -> None:
            nonlocal is_stream, is_complete
            if message["type"] == "http.response.start":
                headers = {name.lower(): value for name, value in message["headers"]}
                is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            elif is_stream:
                data.extend(message.get("body", b""))
                is_complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, record)
        finally:
            if is_stream:
                self._check(scope["path"], bytes(data), is_complete)

    def _check(self, path: str, data: bytes, is_complete: bool) -> None:
        try:
            check_stream(path, data, cut_off=not is_complete)
        except IllegalStreamError as exc:
            self.problems.append(f"{path}: {exc}")


def make_deployment(
    name: str = ALIAS, model: str = MODEL, phase: Phase = Phase.READY, slot: int = 0, **fields: Any
) -> Deployment:
    """Return a record as the worker writes it."""
    now = datetime.now(UTC)
    job = Job(name=JOB, slot=slot, phase=phase, window=WINDOW, node="node1", port=NODE_PORT, proves=True)
    values: dict[str, Any] = {
        "id": f"id-{name}-{next(COUNTER)}",
        "model": model,
        "names": (name,),
        "request": LaunchRequest(model=model),
        "traits": THINKING,
        "phase": phase,
        "jobs": (job,),
        "created_at": now,
        "updated_at": now,
    }
    return Deployment.model_validate({**values, **fields})


def serve_model(port: int, *names: str, window: int = WINDOW, embeds: bool = False) -> AbstractContextManager[FakeVLLM]:
    """Serve a fake vLLM with the key of the tests' job."""
    key = serving_key(SERVING_SECRET, JOB)
    return serve_vllm(FakeVLLM(names or (ALIAS, MODEL), key, window, NODE_PORT, embeds), port)


def wait_until_live(url: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until that URL answers 200."""

    def is_live() -> bool:
        assert process is None or process.poll() is None, f"the server of {url} has ended"
        try:
            return httpx.get(url, timeout=2, verify=NO_TLS).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(is_live, START_TIMEOUT_S, pause_s=0.02)


@contextmanager
def run_app(environment: ProxyEnvironment, stale_s: float = STALE_S, **limits: Any) -> Iterator[RunningProxy]:
    """Run the app in a thread. The direct backend also replaces LiteLLM: vLLM serves every endpoint itself.

    limits: fields of the settings.
    """
    port = free_port()
    settings = environment.settings(port).model_copy(update=limits)
    # with the proxy's rights in Redis
    store = Store.connect(settings.redis_login)
    routes = RoutingTableThread(store, CATALOG, stale_s)
    keys = KeyTableThread(store, KEY, stale_s)
    tracker = LoadTracker(cut=lambda: recorder.active.cut)
    recorder = UsageRecorder(store, SERVING_SECRET, tracker.measure)
    reporter = LoadReporter(store, tracker, lambda: routes.read_at)
    open_requests = OpenRequests(SERVING_SECRET)
    live = LiveReporter(store, open_requests)
    servers: list[uvicorn.Server] = []
    stream_recorders: list[StreamRecorder] = []

    async def serve() -> None:
        async with DirectBackend(settings) as direct:
            app = ProxyApp(
                settings,
                lambda: routes.table,
                lambda: keys.table,
                lambda: routes.problem() or keys.problem(),
                recorder,
                direct,
                direct,
                _refuse_lifespan,
                tracker,
                open_requests,
            )
            stream_recorders.append(StreamRecorder(app))
            config = uvicorn.Config(
                stream_recorders[0],
                host="127.0.0.1",
                port=port,
                http=BoundedHeadProtocol,
                log_config=None,
                lifespan="off",
            )
            servers.append(uvicorn.Server(config))
            await servers[0].serve()

    for part in (routes, keys, recorder, reporter, live):
        part.start()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        wait_until_live(f"http://127.0.0.1:{port}/health/liveliness")
        yield RunningProxy(f"http://127.0.0.1:{port}", environment, open_requests=open_requests)
    finally:
        servers[0].should_exit = True
        thread.join(timeout=60)
        for part in (live, reporter, recorder, keys, routes):
            part.stop()
        store.close()
    assert not stream_recorders[0].problems, stream_recorders[0].problems


async def _refuse_lifespan(scope: object, receive: object, send: object) -> None:
    raise AssertionError("the app is served without a lifespan here")


@contextmanager
def run_direct_process(environment: ProxyEnvironment, hold_s: float = HOLD_S) -> Iterator[RunningProxy]:
    """Run the proxy as a process without LiteLLM; the chat endpoint is not served. hold_s: for a model that starts."""
    port = free_port()
    paths = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'services/proxy'}:{ROOT}"}
    variables = {**os.environ, **paths, "SECRETS_DIR": str(_write_secrets(environment, port))}
    own = {**_variables(environment, port, direct=True), "HOLD_STARTING_S": str(hold_s)}
    process = subprocess.Popen([sys.executable, "-m", "tests.proxy.process"], env={**variables, **own})
    try:
        wait_until_live(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield RunningProxy(f"http://127.0.0.1:{port}", environment, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _write_secrets(environment: ProxyEnvironment, port: int) -> Path:
    secrets = environment.directory / f"secrets-{port}"
    secrets.mkdir()
    password = environment.redis_password
    for name, value in (("api_key", KEY), ("serving_secret", SERVING_SECRET), ("redis_password", password)):
        (secrets / name).write_text(value)
    return secrets


@contextmanager
def run_proxy_process(environment: ProxyEnvironment, direct: bool) -> Iterator[RunningProxy]:
    """Run the whole proxy: the image that BOUCHET_PROXY_IMAGE names, else this interpreter, which must have LiteLLM."""
    port = free_port()
    secrets = _write_secrets(environment, port)
    variables = _variables(environment, port, direct)
    image = os.environ.get(IMAGE_VARIABLE)
    argv = _container_argv(image, port, secrets, variables) if image else [sys.executable, "-m", "bouchet_proxy"]
    paths = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'services/proxy'}", "SECRETS_DIR": str(secrets)}
    if image:
        _remove_left_containers()
    process = subprocess.Popen(argv, env={**os.environ, **paths, **variables})
    try:
        wait_until_live(f"http://127.0.0.1:{port}/health/liveliness", process)
        pid = _container_pid(port) if image else process.pid
        yield RunningProxy(f"http://127.0.0.1:{port}", environment, pid)
    finally:
        if image:
            subprocess.run(["docker", "stop", "--time", "5", _container_name(port)], check=False, capture_output=True)
        process.terminate()
        process.wait(timeout=60)


def _variables(environment: ProxyEnvironment, port: int, direct: bool) -> dict[str, str]:
    return {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(environment.redis_port),
        "PROXY_PORT": str(port),
        "SLOT_HOST": "127.0.0.1",
        "SLOT_BASE_PORT": str(environment.slot_base_port),
        "SLOT_COUNT": str(SLOTS),
        "BOUCHET_CATALOG": "/etc/bouchet/models.yaml" if IMAGE_VARIABLE in os.environ else str(ROOT / "models.yaml"),
        "DIRECT": "on" if direct else "off",
        "HOLD_STARTING_S": str(HOLD_S),
    }


def _container_argv(image: str, port: int, secrets: Path, variables: Mapping[str, str]) -> list[str]:
    """Return a `docker run` hardened as in compose.yaml, but on the host's network, where the tests' servers are."""
    env = [argument for name, value in variables.items() for argument in ("--env", f"{name}={value}")]
    mounts = [f"--volume={secrets}:/run/secrets:ro", f"--volume={ROOT / 'models.yaml'}:/etc/bouchet/models.yaml:ro"]
    hardened = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", f"--user={os.getuid()}:{os.getgid()}"]
    named = ["--rm", f"--name={_container_name(port)}", f"--label={LABEL}={os.getpid()}", "--network=host"]
    return ["docker", "run", *named, *hardened, *mounts, *env, image]


def _remove_left_containers() -> None:
    """Remove the containers of test runs that were killed before they could do it."""
    argv = ["docker", "ps", "--all", "--filter", f"label={LABEL}", "--format", f'{{{{.ID}}}} {{{{.Label "{LABEL}"}}}}']
    listed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    for identity, runner in (line.split() for line in listed.splitlines()):
        if not Path(f"/proc/{runner}").exists():
            subprocess.run(["docker", "rm", "--force", identity], check=True, capture_output=True)


def _container_name(port: int) -> str:
    return f"bouchet-proxy-test-{port}"


def _container_pid(port: int) -> int:
    argv = ["docker", "inspect", "--format", "{{.State.Pid}}", _container_name(port)]
    return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
