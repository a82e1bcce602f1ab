"""One whole stack, as a person starts it (`make up`), and the handles by which tests push and watch it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import docker
import httpx
from docker.models.containers import Container

from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
# stacks side by side: BOUCHET_TEST_STACK=2 makes a second one, with its own names, ports and networks
NUMBER = int(os.environ.get("BOUCHET_TEST_STACK", "1"))
PROJECT = "bouchet-test" if NUMBER == 1 else f"bouchet-test{NUMBER}"
ENV_FILE = ROOT / (".env.test" if NUMBER == 1 else f".env.test{NUMBER}")
SUBNET = f"10.213.{86 + NUMBER}"
LOCAL_SERVICES = ("redis", "gateway", "worker", "api", "proxy")
UP_TIMEOUT_S = 1500
READY_TIMEOUT_S = 300


@dataclass(frozen=True)
class Finished:
    """A command that ended: what it printed, and its status."""

    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything it printed."""
        return self.stdout + self.stderr


class Stack:
    """The stack under test. It has its own project name, ports, secrets and demo cluster."""

    def __init__(self, proxy_port: int, api_port: int) -> None:
        self.proxy_url = f"http://127.0.0.1:{proxy_port}"
        self.api_url = f"http://127.0.0.1:{api_port}"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("BOUCHET_", "ANTHROPIC_"))},
            **{name: os.environ[name] for name in ("BOUCHET_IMAGE_TAG",) if name in os.environ},
            "COMPOSE_PROJECT_NAME": PROJECT,
            "BOUCHET_ENV_FILE": ENV_FILE.name,
            "DEMO_SUBNET": SUBNET,
        }

    @cached_property
    def docker(self) -> docker.DockerClient:
        """The engine; `close` hangs up."""
        return docker.from_env()

    def close(self) -> None:
        """Close the Docker client."""
        if "docker" in self.__dict__:
            self.docker.close()

    @property
    def key(self) -> str:
        """BOUCHET_API_KEY of this stack, which opens the proxy."""
        return self.setting("BOUCHET_API_KEY")

    @property
    def admin_key(self) -> str:
        """BOUCHET_ADMIN_KEY of this stack, which opens the API."""
        return self.setting("BOUCHET_ADMIN_KEY")

    def setting(self, name: str) -> str:
        """Return a value of this stack's env file."""
        found = re.search(rf"^{name}=(\S+)$", ENV_FILE.read_text(), re.M)
        assert found, f"no {name} in {ENV_FILE}"
        return found[1]

    def make(self, *targets: str, timeout_s: float = UP_TIMEOUT_S, **environ: str) -> Finished:
        """Run `make TARGET...` in this stack."""
        return self._finish(["make", "--no-print-directory", *targets], {**self.environ, **environ}, timeout_s)

    def bouchet(self, *arguments: str, timeout_s: float = READY_TIMEOUT_S, **environ: str) -> Finished:
        """Run `./bouchet ...`."""
        return self._finish([str(ROOT / "bouchet"), *arguments], {**self.environ, **environ}, timeout_s)

    def remove(self) -> None:
        """Remove containers and volumes of this stack; shared images and software stay."""
        done = self.make("remove", timeout_s=120)
        assert done.status == 0, done.output
        ENV_FILE.unlink(missing_ok=True)

    def api(self) -> httpx.Client:
        """Return a client of the API, with its key."""
        return httpx.Client(base_url=self.api_url, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=30)

    def proxy(self) -> httpx.Client:
        """Return a client of the proxy, with the key as Anthropic's clients send it."""
        headers = {"x-api-key": self.key, "anthropic-version": "2023-06-01"}
        return httpx.Client(base_url=self.proxy_url, headers=headers, timeout=120)

    def containers(self) -> dict[str, Container]:
        """Return all containers of the stack by service, including stopped ones."""
        found = self.docker.containers.list(all=True, filters={"label": f"com.docker.compose.project={PROJECT}"})
        return {container.labels["com.docker.compose.service"]: container for container in found}

    def container(self, service: str) -> Container:
        """Return the container of one service."""
        return self.containers()[service]

    def on(self, service: str, argv: Sequence[str], user: str = "") -> Finished:
        """Run a program inside a container of the stack."""
        result: Any = self.container(service).exec_run(list(argv), user=user, demux=True)
        stdout, stderr = result.output
        return Finished(result.exit_code, (stdout or b"").decode(), (stderr or b"").decode())

    def slurm(self, *argv: str) -> str:
        """Run a Slurm program on the login node as the demo's user, and return its output."""
        finished = self.on("demo-login", argv, user="researcher")
        assert finished.status == 0, finished.output
        return finished.stdout

    def deployments(self, *, live: bool = True) -> list[dict[str, Any]]:
        """Return the deployments, newest first."""
        with self.api() as api:
            answer = api.get("/v1/deployments", params={"live": str(live).lower()}).raise_for_status().json()
        return list(answer["deployments"])

    def deployment(self, name: str) -> dict[str, Any]:
        """Return one deployment by id or name."""
        with self.api() as api:
            return dict(api.get(f"/v1/deployments/{name}").raise_for_status().json())

    def wait_for_phase(self, name: str, *phases: str, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the deployment is in one of the phases; fail early if it ends otherwise."""

        def there() -> dict[str, Any] | None:
            record = self.deployment(name)
            ended = record["phase"] == "ended" and "ended" not in phases
            assert not ended, f"{name} ended: {record['reason']}"
            return record if record["phase"] in phases else None

        return wait_for(there, timeout_s, lambda: json.dumps(self.deployment(name), indent=1))

    def wait_healthy(self, *services: str, timeout_s: float = 180) -> None:
        """Wait until Docker reports the services healthy."""
        for service in services:
            wait_for(partial(self._is_healthy, service), timeout_s, partial(self._log_end, service))

    def memory_mib(self, service: str) -> float:
        """Return the memory of a service as `docker stats` counts it: without reclaimable page cache."""
        stats: Any = self.container(service).stats(stream=False)
        memory = stats["memory_stats"]
        cache = memory["stats"].get("inactive_file", memory["stats"].get("total_inactive_file", 0))
        return float(memory["usage"] - cache) / 2**20

    def cpu_s(self, service: str) -> float:
        """Return the CPU seconds that a service's container has used since it started."""
        stats: Any = self.container(service).stats(stream=False, one_shot=True)
        return float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def _is_healthy(self, service: str) -> bool:
        return bool(self.container(service).attrs["State"]["Health"]["Status"] == "healthy")

    def _log_end(self, service: str) -> str:
        return self.container(service).logs(tail=30).decode()

    def _finish(self, argv: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> Finished:
        with subprocess.Popen(
            argv,
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except BaseException:
                _end(process)
                raise
        return Finished(process.returncode, stdout, stderr)


def _end(process: subprocess.Popen[str]) -> None:
    """End a command that took too long, with its process group; `make up` cleans up on SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)


def open_stack() -> Stack:
    """Return the stack on the ports of its env file, which is made with free ports the first time.

    Volumes that an earlier run left without their env file are removed: their secrets are lost.
    """
    if not ENV_FILE.exists():
        ports = _free_ports()
        Stack(*ports).remove()
        make_env_file(*ports)
    found = dict(re.findall(r"^(PROXY_PORT|API_PORT)=(\d+)$", ENV_FILE.read_text(), re.M))
    return Stack(int(found["PROXY_PORT"]), int(found["API_PORT"]))


def make_env_file(*ports: int) -> None:
    """Make the stack's env file with new secrets, as `make up` does, and with these ports of proxy and API."""
    done = Stack(*ports).make("env")
    assert done.status == 0, done.output
    text = ENV_FILE.read_text()
    for name, port in zip(("PROXY_PORT", "API_PORT"), ports, strict=True):
        text = re.sub(rf"^{name}=.*$", f"{name}={port}", text, flags=re.M)
    ENV_FILE.write_text(text)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def claude_binary() -> str:
    """Return the path of the Claude Code that tests/claude pins."""
    binary = shutil.which("claude", path=str(ROOT / "tests/claude/node_modules/.bin"))
    assert binary, "Claude Code is not installed; `make test` installs it (tests/claude)"
    return binary


def say(text: str) -> None:
    """Print a line of progress past pytest's capture."""
    print(text, file=sys.__stderr__, flush=True)
