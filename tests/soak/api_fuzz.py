"""`python -m tests.soak.api_fuzz [SECONDS]`: schemathesis against a running API, over all that openapi.json describes.

The API has its own Redis and a real worker; the cluster is a fake Slurm. Schemathesis sends valid and invalid requests
with every method, follows the ids that come back, and checks each answer against the document. Nothing may be a server
error, and nothing may differ from the document.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from bouchet_core.gateway_client import NO_TLS

from setup.python.environments import FUZZER
from tests.conftest import free_port, free_ports, start_redis
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.hub_server import Hub, running_hub
from tests.fakes.running_api import ADMIN_KEY, RunningApi, running
from tests.fakes.running_worker import running_worker, worker_environment
from tests.fakes.slurm_gateway import FakeJob, FakeSlurm, running_gateway
from tests.remote.compute_node import SCRIPTS

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / FUZZER / "bin" / "st"
FUZZ_S = 1200.0
# the API waits up to 45 s for the worker
REQUEST_TIMEOUT_S = 60
# a stream ends with its client: these are sent by `ask_streams`
STREAMS = r"/(events|logs)$"
# DELETE asks for a cancel; the record of what was cancelled stays
NOT_CHECKED = "use_after_free"
CONFIG = """
[auth.openapi.x-api-key]
api_key = "{key}"

[auth.openapi.bearer]
bearer = "{key}"

# 422 refuses with a sentence what no schema can say: texts of a policy, what the site allows, what has ended
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 422, 429]
"""
MODEL = "Qwen/Qwen3-32B"
SLOTS = 4


@contextmanager
def running_services(folder: Path) -> Iterator[RunningApi]:
    """Run the API with a worker whose cluster has an orphan, no images, and a hub without models."""
    slurm = FakeSlurm()
    slurm.on_disk, slurm.images = {}, {}
    slurm.real_scripts = {name: SCRIPTS / name for name in ("inspect_hub.py", "remove_model.py")}
    slurm.jobs[900] = FakeJob(900, "bouchet-zz-1", "day", [], state="RUNNING", node="node1")
    secrets = folder / "secrets"
    for made in (secrets, folder / "redis"):
        made.mkdir()
    with ExitStack() as opened:
        redis = start_redis(folder / "redis", free_port())
        opened.callback(redis.stop)
        gateway = opened.enter_context(FakeGateway())
        api = opened.enter_context(running(folder, redis, gateway))
        url = opened.enter_context(running_gateway(slurm))
        hub = opened.enter_context(running_hub(Hub({})))
        with (folder / "site.yaml").open("a") as site:
            site.write(f"hub_endpoint: {hub.url}\n")
        slots = opened.enter_context(slots_without_servers())
        environment = worker_environment(secrets, redis_port=redis.port, gateway_url=url, slot_port=slots)
        own = {"BOUCHET_SITE_FILE": str(folder / "site.yaml"), "BOUCHET_CATALOG": str(folder / "models.yaml")}
        opened.enter_context(running_worker({**environment, **own}, "one"))
        yield api


class NothingListens(BaseHTTPRequestHandler):
    """Answers as a gateway does whose slot leads to a port on which nothing listens."""

    def do_GET(self) -> None:
        """Implement BaseHTTPRequestHandler."""
        body = b'{"kind": "remote_refused", "detail": "no connection from login to node1: Connection refused"}'
        self.send_response(502)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def slots_without_servers() -> Iterator[int]:
    """Listen on the worker's slots, and yield the first port."""
    base = free_ports(SLOTS)
    servers = [ThreadingHTTPServer(("127.0.0.1", base + slot), NothingListens) for slot in range(SLOTS)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield base
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def schemathesis_argv(url: str, document: Path, config: Path, seconds: float, seed: int) -> list[str]:
    """Return its command line. It reads the key from `config`, so that it knows which requests have none."""
    options = {
        "--url": url,
        "--checks": "all",
        "--exclude-checks": NOT_CHECKED,
        "--max-time": str(int(seconds)),
        "--request-timeout": str(REQUEST_TIMEOUT_S),
        "--exclude-path-regex": STREAMS,
        # two run into a fault of Python 3.11: SystemError in ast.parse
        "--workers": "1",
        "--seed": str(seed),
    }
    words = [word for pair in options.items() for word in pair]
    argv = [str(PROGRAM), "--no-color", "--config-file", str(config), "run", str(document)]
    # of schemathesis' own generator: few random texts are a model's name and a query besides
    return [*argv, *words, "--continue-on-failure", "--no-shrink", "--suppress-health-check=filter_too_much"]


def fuzz(seconds: float, seed: int = 1) -> tuple[bool, str]:
    """Send requests for about that long; return whether all was well, and what schemathesis printed."""
    with tempfile.TemporaryDirectory(prefix="bouchet-fuzz-") as name, running_services(Path(name)) as api:
        config = Path(name) / "schemathesis.toml"
        config.write_text(CONFIG.format(key=ADMIN_KEY))
        document = Path(name) / "openapi.json"
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        document.write_bytes(httpx.get(f"{api.url}/openapi.json", headers=headers, timeout=60, verify=NO_TLS).content)
        argv = schemathesis_argv(api.url, document, config, seconds, seed)
        done = subprocess.run(
            argv,
            cwd=name,
            capture_output=True,
            text=True,
            timeout=seconds * 2 + 120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    """Return 1 if anything was found."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else FUZZ_S
    passed, output = fuzz(seconds, seed=int(time.time()))
    print(output)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
