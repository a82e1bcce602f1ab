"""API, worker and gateway as a person has them, with a real sshd as the login node, and a proxy beside them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from bouchet_api.settings import ApiSettings
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import attach_secret
from bouchet_core.store import Store
from pydantic import SecretStr

from tests.conftest import RedisServer, free_port, free_ports
from tests.fakes import running_api
from tests.fakes.running_api import ADMIN_KEY
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.environment import KEY, SERVING_SECRET, ProxyEnvironment, RunningProxy, run_app
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
SLOTS = 4
WORKER_TOKEN, API_TOKEN = "token-of-the-worker", "token-of-the-api"
START_S = 60.0
# a name that resolves on every machine, and that the fake scontrol knows as a node
NODE = socket.gethostname()
SCONTROL = f"""#!/bin/sh
echo "$*" >> "$HOME/scontrol-calls"
for last; do :; done
[ "$last" = {NODE} ] && echo "NodeName={NODE} State=IDLE" && exit 0
echo "Node $last not found"
exit 1
"""


@dataclass
class WholeWay:
    """All of it at work. logs: what worker and gateway wrote."""

    api_url: str
    proxy: RunningProxy
    store: Store
    directory: Path
    redis: RedisServer
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send a request to the API."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.request(method, f"{self.api_url}{path}", json=body, headers=headers, timeout=90, verify=NO_TLS)

    def attach(self, name: str, port: int, **more: Any) -> httpx.Response:
        """Attach a server of this machine, or of `node`."""
        return self.request("POST", "/v1/deployments/attach", {"name": name, "node": NODE, "port": port, **more})

    def chat(self, model: str, path: str = "/v1/messages", text: str = "hello") -> httpx.Response:
        """Send a message to a model through the proxy."""
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": text}]}
        return httpx.post(f"{self.proxy.url}{path}", json=body, headers={"x-api-key": KEY}, timeout=60, verify=NO_TLS)

    def start(self, name: str, module: str) -> None:
        """Start a service as a process."""
        log = (self.directory / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", module], env=self.environment | self._secrets(name), stdout=log, stderr=log
        )
        log.close()

    def stop(self, name: str) -> None:
        """Kill a service."""
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def text_of_logs(self) -> str:
        """Return what all processes wrote."""
        return "".join(path.read_text(errors="replace") for path in self.directory.glob("*.log"))

    def _secrets(self, name: str) -> dict[str, str]:
        return {"SECRETS_DIR": str(self.directory / f"secrets-{name}")}


def write_secrets(directory: Path, **secrets: str) -> None:
    """Write secret files into a new folder."""
    directory.mkdir()
    for name, value in secrets.items():
        (directory / name).write_text(value)


@contextmanager
def login_node(directory: Path) -> Iterator[int]:
    """Run OpenSSH's sshd with a key for this user, and a scontrol that knows one node; yield its port."""
    home, port = directory / "home", free_port()
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "scontrol").write_text(SCONTROL)
    (home / "bin" / "scontrol").chmod(0o755)
    ssh = directory / "ssh"
    ssh.mkdir(mode=0o700)
    for key in (directory / "host_key", ssh / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shutil.copy(ssh / "id_ed25519.pub", directory / "authorized_keys")
    public = (directory / "host_key.pub").read_text()
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    config = directory / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nSubsystem sftp internal-sftp\n"
        f"SetEnv HOME={home} PATH={home}/bin:/usr/bin:/bin\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert sshd, "OpenSSH's server is not installed"
    process = subprocess.Popen([sshd, "-D", "-E", directory / "sshd.log", "-f", config])
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def whole_way(store: Store, redis: RedisServer, directory: Path) -> Iterator[WholeWay]:
    """Run all of it."""
    base = free_ports(SLOTS)
    with ExitStack() as opened:
        ssh_port = opened.enter_context(login_node(directory))
        gateway_url = f"http://127.0.0.1:{free_port()}"
        environment = _environment(directory, redis, ssh_port, gateway_url, base)
        proxy_environment = ProxyEnvironment(directory, redis.port, redis.password, store, base, FakeVLLM((), "none"))
        proxy = opened.enter_context(run_app(proxy_environment))
        api_url = opened.enter_context(_api(directory, redis, gateway_url))
        house = WholeWay(api_url, proxy, store, directory, redis, environment)
        try:
            house.start("gateway", "bouchet_gateway")
            house.start("worker", "bouchet_worker")
            wait_for(
                lambda: house.request("GET", "/v1/tunnel").json().get("state") == "up", START_S, house.text_of_logs
            )
            yield house
        finally:
            for name in list(house.processes):
                house.stop(name)


def _environment(directory: Path, redis: RedisServer, ssh_port: int, gateway_url: str, base: int) -> dict[str, str]:
    """Return the variables of both processes, and write their files."""
    password = redis.password
    tokens = {"gateway_token_api": API_TOKEN, "gateway_token_worker": WORKER_TOKEN}
    write_secrets(directory / "secrets-gateway", redis_password=password, **tokens)
    secrets = {"redis_password": password, "gateway_token": WORKER_TOKEN, "serving_secret": SERVING_SECRET}
    write_secrets(directory / "secrets-worker", **secrets)
    site = yaml.safe_load((ROOT / "sites" / "demo.yaml").read_text())
    site |= {"login": {"host": "127.0.0.1", "port": ssh_port, "user": "root"}}
    site.pop("extra_models")
    site.pop("default_model")
    (directory / "site.yaml").write_text(yaml.safe_dump(site))
    return {
        **{name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"},
        "BOUCHET_SITE_FILE": str(directory / "site.yaml"),
        "BOUCHET_CATALOG": str(ROOT / "models.yaml"),
        "BOUCHET_HOST": "",
        "SSH_DIR": str(directory / "ssh"),
        "REMOTE_DIR": str(ROOT / "remote"),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "GATEWAY_URL": gateway_url,
        "GATEWAY_PORT": gateway_url.rpartition(":")[2],
        "SLOT_HOST": "127.0.0.1",
        "SLOT_BASE_PORT": str(base),
        "SLOT_COUNT": str(SLOTS),
        "WORKER_NAME": "worker",
        "DATA_DIR": str(directory / "data"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


@dataclass(frozen=True)
class _GatewayAddress:
    url: str


@contextmanager
def _api(directory: Path, redis: RedisServer, gateway_url: str) -> Iterator[str]:
    """Run the API in a thread, with the gateway's real address and its own token."""

    def changed(settings: ApiSettings) -> ApiSettings:
        secrets = {"gateway_token": SecretStr(API_TOKEN), "attach_secret": SecretStr(attach_secret(SERVING_SECRET))}
        return settings.model_copy(update=secrets)

    folder = directory / "api"
    folder.mkdir()
    with running_api.running(folder, redis, _GatewayAddress(gateway_url), change=changed) as api:
        yield api.url
