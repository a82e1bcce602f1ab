"""Real servers for the contract: the fake model in a process of its own, the front in a thread, or the whole proxy."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Traits
from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_proxy.app import Front
from bouchet_proxy.asgi import App, Message, Receive, Scope, Send
from bouchet_proxy.auth.key_watcher import KeyWatcher
from bouchet_proxy.backends.direct import DirectLane
from bouchet_proxy.routing.watcher import TableWatcher
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.usage.recorder import Recorder
from pydantic import SecretStr

from tests.conftest import free_port
from tests.proxy.stream_checker import IllegalStream, check_stream

ROOT = Path(__file__).parents[2]
KEY, SERVING_SECRET, JOB = "key-of-the-tests", "serving-secret", "bouchet-tiny-1"
ALIAS, MODEL, WINDOW = "tiny", "org/Tiny-Model", 4096
SLOTS = 4
# the fake model's on its node, as the records say; through the slot it has another one
NODE_PORT = 1234
COUNTER = itertools.count(1)
START_TIMEOUT_S = 180.0
# long enough for a test to make ready what it waits for
HOLD_S = 5.0
IMAGE_VARIABLE = "BOUCHET_PROXY_IMAGE"
# on a container of the tests: the process that started it
LABEL = "bouchet.test.runner"
CATALOG = {"org/Other": "other", "other": "other", "org/tiny-model": ALIAS, ALIAS: ALIAS}
THINKER = Traits(thinking="off", tool_parser="hermes", reasoning_parser="qwen3", max_output=8192)


@dataclass
class FakeModel:
    """A running fake vLLM."""

    port: int
    process: subprocess.Popen[bytes]

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked, oldest first."""
        seen: list[dict[str, Any]] = httpx.get(f"http://127.0.0.1:{self.port}/fake/requests", timeout=30).json()
        return seen

    def count(self) -> int:
        """How many requests it was asked."""
        return int(httpx.get(f"http://127.0.0.1:{self.port}/fake/count", timeout=30).text)

    def last_body(self) -> dict[str, Any]:
        """The body it was asked with last."""
        body: dict[str, Any] = self.requests()[-1]["body"]
        return body

    def stop(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


@dataclass
class Ground:
    """What every way of running the proxy stands on. Slot n is port slot_base_port + n."""

    directory: Path
    redis_port: int
    redis_password: str
    store: Store
    slot_base_port: int
    fake: FakeModel

    def settings(self, port: int, direct_lane: bool = True) -> ProxySettings:
        """Settings for a proxy on this ground."""
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
            direct=direct_lane,
            hold_starting_s=HOLD_S,
        )


class StreamGuard:
    """An ASGI app before another that keeps what is wrong with the streams that it sends."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.wrong: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept, streams, whole = bytearray(), False, False

        async def watched(message: Message) -> None:
            nonlocal streams, whole
            if message["type"] == "http.response.start":
                headers = {name.lower(): value for name, value in message["headers"]}
                streams = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            elif streams:
                kept.extend(message.get("body", b""))
                whole = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if streams:
                self._check(scope["path"], bytes(kept), whole)

    def _check(self, path: str, data: bytes, whole: bool) -> None:
        try:
            check_stream(path, data, cut_off=not whole)
        except IllegalStream as exc:
            self.wrong.append(f"{path}: {exc}")


@dataclass
class Door:
    """A running proxy. pid: of the process that holds LiteLLM, None where there is none."""

    url: str
    ground: Ground
    pid: int | None = None


def deployment(
    name: str = ALIAS, model: str = MODEL, phase: Phase = Phase.READY, slot: int = 0, **fields: Any
) -> Deployment:
    """A record as the worker would leave it."""
    now = datetime.now(UTC)
    job = Job(name=JOB, slot=slot, phase=phase, window=WINDOW, node="node1", port=NODE_PORT, proves=True)
    made: dict[str, Any] = {
        "id": f"id-{name}-{next(COUNTER)}",
        "model": model,
        "names": (name,),
        "request": LaunchRequest(model=model),
        "traits": THINKER,
        "phase": phase,
        "jobs": (job,),
        "created_at": now,
        "updated_at": now,
    }
    return Deployment.model_validate({**made, **fields})


def start_fake(
    port: int, window: int = WINDOW, names: tuple[str, ...] = (ALIAS, MODEL), embeds: bool = False
) -> FakeModel:
    """A fake vLLM that listens."""
    key = serving_key(SERVING_SECRET, JOB)
    argv = [sys.executable, "-m", "tests.fakes.vllm_server", f"--port={port}", f"--key={key}", f"--window={window}"]
    argv.append(f"--node-port={NODE_PORT}")
    words = [f"--name={name}" for name in names]
    process = subprocess.Popen([*argv, *words, *(["--embeds"] if embeds else [])], cwd=ROOT)
    wait_for(f"http://127.0.0.1:{port}/health", process)
    return FakeModel(port, process)


def wait_for(url: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Until that URL answers 200."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None, f"the server of {url} has ended"
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError(f"{url} did not answer within {START_TIMEOUT_S} s")


@contextmanager
def front_in_thread(ground: Ground) -> Iterator[Door]:
    """The front with the direct lane alone, which also stands in for LiteLLM where vLLM speaks the dialect itself."""
    port = free_port()
    settings = ground.settings(port)
    watcher = TableWatcher(ground.store, CATALOG)
    keys, recorder = KeyWatcher(ground.store, KEY), Recorder(ground.store, SERVING_SECRET)
    servers: list[uvicorn.Server] = []
    guards: list[StreamGuard] = []

    async def serve() -> None:
        async with DirectLane(settings) as lane:
            front = Front(settings, lambda: watcher.table, lambda: keys.table, recorder, lane, lane, _no_lifespan)
            guards.append(StreamGuard(front))
            config = uvicorn.Config(guards[0], host="127.0.0.1", port=port, log_config=None, lifespan="off")
            servers.append(uvicorn.Server(config))
            await servers[0].serve()

    for part in (watcher, keys, recorder):
        part.start()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness")
        yield Door(f"http://127.0.0.1:{port}", ground)
    finally:
        servers[0].should_exit = True
        thread.join(timeout=60)
        for part in (recorder, keys, watcher):
            part.stop()
    assert not guards[0].wrong, guards[0].wrong


@contextmanager
def whole_proxy(ground: Ground, direct_lane: bool) -> Iterator[Door]:
    """The whole proxy: the image that BOUCHET_PROXY_IMAGE names, else this interpreter, which must have LiteLLM."""
    port = free_port()
    secrets = ground.directory / f"secrets-{port}"
    secrets.mkdir()
    for name, value in (("api_key", KEY), ("serving_secret", SERVING_SECRET), ("redis_password", "secret")):
        (secrets / name).write_text(value)
    env = _environment(ground, port, direct_lane)
    image = os.environ.get(IMAGE_VARIABLE)
    argv = _container_argv(image, port, secrets, env) if image else [sys.executable, "-m", "bouchet_proxy"]
    paths = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'services/proxy'}", "SECRETS_DIR": str(secrets)}
    if image:
        _sweep()
    process = subprocess.Popen(argv, env={**os.environ, **paths, **env})
    try:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield Door(f"http://127.0.0.1:{port}", ground, _container_pid(port) if image else process.pid)
    finally:
        if image:
            subprocess.run(["docker", "stop", "--time", "5", _container_name(port)], check=False, capture_output=True)
        process.terminate()
        process.wait(timeout=60)


def _environment(ground: Ground, port: int, direct_lane: bool) -> dict[str, str]:
    return {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(ground.redis_port),
        "PROXY_PORT": str(port),
        "SLOT_HOST": "127.0.0.1",
        "SLOT_BASE_PORT": str(ground.slot_base_port),
        "SLOT_COUNT": str(SLOTS),
        "BOUCHET_CATALOG": "/etc/bouchet/models.yaml" if IMAGE_VARIABLE in os.environ else str(ROOT / "models.yaml"),
        "DIRECT": "on" if direct_lane else "off",
        "HOLD_STARTING_S": str(HOLD_S),
    }


def _container_argv(image: str, port: int, secrets: Path, env: Mapping[str, str]) -> list[str]:
    """Hardened as in compose.yaml, but on the host's network, where the tests' servers are."""
    variables = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
    mounts = [f"--volume={secrets}:/run/secrets:ro", f"--volume={ROOT / 'models.yaml'}:/etc/bouchet/models.yaml:ro"]
    hardened = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", f"--user={os.getuid()}:{os.getgid()}"]
    named = ["--rm", f"--name={_container_name(port)}", f"--label={LABEL}={os.getpid()}", "--network=host"]
    return ["docker", "run", *named, *hardened, *mounts, *variables, image]


def _sweep() -> None:
    """Removes what runs were killed before they could remove their own."""
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


async def _no_lifespan(scope: object, receive: object, send: object) -> None:
    raise AssertionError("the front is served without a lifespan here")
