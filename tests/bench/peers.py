"""The proxies that are measured side by side, before the same model: ours in both its ways, LiteLLM as it comes in both
of its, and claude-code-router."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from bouchet_core.deployments import Traits
from bouchet_core.keys import serving_key

from tests.conftest import free_port, start_redis
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.environment import (
    ALIAS,
    IMAGE_VARIABLE,
    JOB,
    KEY,
    NODE_PORT,
    SERVING_SECRET,
    ProxyEnvironment,
    make_deployment,
    run_proxy_process,
    wait_until_live,
)

from .clients import Way

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).parent / "peers"
ROUTER = "node_modules/@musistudio/claude-code-router/dist/cli.js"
# what a coding model's window is; the prompts here are never counted
WINDOW = 262_144


@contextmanager
def all_ways(folder: Path, cache: Path) -> Iterator[list[Way]]:
    """Start all servers; the model itself comes first."""
    with ExitStack() as running:
        base = free_port()
        running.enter_context(bench_model(base))
        redis = start_redis(folder, free_port())
        running.callback(redis.stop)
        store = redis.store()
        running.callback(store.close)
        made = make_deployment(traits=Traits(tool_parser="qwen3_coder", max_output=WINDOW))
        assert made.job is not None
        store.create(made.model_copy(update={"jobs": (made.job.model_copy(update={"window": WINDOW}),)}))
        # the fake is not served: the model of the bench is behind slot 0
        environment = ProxyEnvironment(folder, redis.port, redis.password, store, base, FakeVLLM((ALIAS,), KEY, WINDOW))
        direct = running.enter_context(run_proxy_process(environment, direct=True))
        through_litellm = running.enter_context(run_proxy_process(environment, direct=False))
        adapter, native = running.enter_context(_litellm(folder, base))
        yield [
            Way("direct", f"http://127.0.0.1:{base}", KEY, ALIAS),
            Way("bouchet-llm", direct.url, KEY, ALIAS, direct.pid),
            Way("bouchet-llm through LiteLLM", through_litellm.url, KEY, ALIAS, through_litellm.pid),
            adapter,
            native,
            running.enter_context(_router(folder, cache, base)),
        ]


@contextmanager
def bench_model(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the bench's model with the key of the tests' job."""
    argv = [sys.executable, "-m", "tests.bench.model", str(port), serving_key(SERVING_SECRET, JOB), str(NODE_PORT)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'core'}:{ROOT}"}
    with _process(argv, cwd=ROOT, env=env) as process:
        wait_until_live(f"http://127.0.0.1:{port}/health", process)
        yield process


@contextmanager
def _litellm(folder: Path, model_port: int) -> Iterator[tuple[Way, Way]]:
    """Start LiteLLM from our image without our code: the adapter's path and the native one."""
    port, name = free_port(), f"bouchet-bench-litellm-{os.getpid()}"
    config = folder / "litellm.yaml"
    target = {"model": f"hosted_vllm/{ALIAS}", "api_base": f"http://127.0.0.1:{model_port}/v1", "api_key": "none"}
    native = {"model_name": "native", "litellm_params": target, "model_info": {"supported_endpoints": ["/v1/messages"]}}
    config.write_text(yaml.safe_dump({"model_list": [{"model_name": "adapter", "litellm_params": target}, native]}))
    config.chmod(0o644)
    env = {
        "LITELLM_MASTER_KEY": f"sk-{KEY}",
        "CONFIG_FILE_PATH": "/litellm.yaml",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
    }
    argv = ["docker", "run", "--rm", f"--name={name}", "--network=host", f"--volume={config}:/litellm.yaml:ro"]
    argv += [word for key, value in env.items() for word in ("--env", f"{key}={value}")]
    serve = ["uvicorn", "litellm.proxy.proxy_server:app", f"--port={port}", "--log-level=warning", "--no-access-log"]
    argv += [os.environ[IMAGE_VARIABLE], "python", "-m", *serve, "--loop=uvloop", "--http=httptools"]
    with _process(argv) as process:
        try:
            wait_until_live(f"http://127.0.0.1:{port}/health/liveliness", process)
            show = ["docker", "inspect", "--format", "{{.State.Pid}}", name]
            pid = int(subprocess.run(show, check=True, capture_output=True, text=True).stdout)
            url, key = f"http://127.0.0.1:{port}", f"sk-{KEY}"
            adapter = Way("LiteLLM adapter", url, key, "adapter", pid)
            # of chats it has one path
            yield adapter, Way("LiteLLM native", url, key, "native", pid, speaks_chats=False)
        finally:
            subprocess.run(["docker", "stop", "--time", "5", name], check=False, capture_output=True)


@contextmanager
def _router(folder: Path, cache: Path, model_port: int) -> Iterator[Way]:
    """Start claude-code-router with one provider."""
    port, home = free_port(), folder / "router"
    config = home / ".claude-code-router" / "config.json"
    config.parent.mkdir(parents=True)
    provider = {
        "name": "vllm",
        "api_base_url": f"http://127.0.0.1:{model_port}/v1/chat/completions",
        "api_key": "none",
        "models": [ALIAS],
    }
    route = {"default": f"vllm,{ALIAS}"}
    settings = {"PORT": port, "HOST": "127.0.0.1", "APIKEY": KEY, "LOG": False, "NON_INTERACTIVE_MODE": True}
    config.write_text(json.dumps({**settings, "Providers": [provider], "Router": route}))
    env = {**os.environ, "HOME": str(home)}
    with _process(["node", str(_installed(cache) / ROUTER), "start"], env=env) as process:
        wait_until_live(f"http://127.0.0.1:{port}/health", process)
        # it chooses a provider for paths that end with /v1/messages alone; chats and responses end with 404, "Provider
        # 'undefined' not found", also where the model is named with its provider, and it has no other path for them
        url = f"http://127.0.0.1:{port}"
        yield Way("claude-code-router 2.0", url, KEY, ALIAS, process.pid, speaks_chats=False)


def _installed(cache: Path) -> Path:
    """Install the pinned peers with npm, once per lock; return the folder."""
    lock, done = LOCK / "package-lock.json", cache / ".made-from"
    if not done.is_file() or done.read_text() != lock.read_text():
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCK / name, cache / name)
        argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(argv, cwd=cache, check=True, capture_output=True)
        done.write_text(lock.read_text())
    return cache


@contextmanager
def _process(
    argv: list[str], cwd: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
