"""Containers of a stack: waiting until they are healthy, and whether their ports are free."""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from setup.command import run, try_run
from setup.errors import PortTakenError, ServiceUnhealthyError, SetupError
from setup.files.env_file import EnvSettings
from setup.progress import Step

from .engine import Compose
from .stack import Stack

POLL_S = 0.5
TIMEOUT_S = 180
MAX_RESTARTS = 3
# a container that was paused, or slept with its computer, counts as unhealthy until its next health check
RECOVERY_S = 45


@dataclass(frozen=True)
class Container:
    """What the engine says about one container. `health` is empty where there is no health check.

    `base` is the base image's name and digest, empty where the image's labels do not have it.
    """

    service: str
    status: str
    health: str
    exit_code: int
    restarts: int
    probe: str
    base: str = ""

    @property
    def is_fine(self) -> bool:
        """Healthy, or a one-shot container that did its work."""
        return (self.status == "running" and self.health in ("", "healthy")) or self.has_done_its_work

    @property
    def has_done_its_work(self) -> bool:
        """Ended with success, as init containers do."""
        return self.status == "exited" and self.exit_code == 0

    def trouble_after(self, waited_s: float) -> str:
        """Return why waiting longer makes no sense, empty while it does."""
        if self.status == "exited" and self.exit_code:
            return f"stopped with status {self.exit_code}"
        if self.restarts >= MAX_RESTARTS:
            return f"was restarted {self.restarts} times"
        if self.status == "running" and self.health == "unhealthy" and waited_s >= RECOVERY_S:
            return "fails its health check"
        return ""


def parse_container(raw: dict[str, object]) -> Container:
    """Parse one entry of `docker inspect`."""
    state = _dict(raw["State"])
    labels = _dict(_dict(raw["Config"])["Labels"])
    health = _dict(state.get("Health") or {})
    log = health.get("Log") or []
    base = [str(labels.get(f"org.opencontainers.image.base.{word}", "")) for word in ("name", "digest")]
    last = _dict(log[-1]) if isinstance(log, list) and log else {}
    return Container(
        service=str(labels.get("com.docker.compose.service", "?")),
        status=str(state["Status"]),
        health=str(health.get("Status", "")),
        exit_code=int(str(state.get("ExitCode", 0))),
        restarts=int(str(raw.get("RestartCount", 0))),
        probe=str(last.get("Output", "")).strip()[-300:],
        base=" ".join(base) if all(base) else "",
    )


def _dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def inspect_containers(project: str) -> list[Container]:
    """Return all containers of a stack."""
    ids = run(
        ["docker", "ps", "--all", "--no-trunc", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]
    ).split()
    text = try_run(["docker", "inspect", *ids]) if ids else None  # None: one went away meanwhile
    return [parse_container(raw) for raw in json.loads(text)] if text else []


def wait_until_healthy(compose: Compose, project: str, step: Step, expected: Sequence[str]) -> None:
    """Wait until all `expected` services are healthy; ServiceUnhealthyError as soon as one cannot become so."""
    began = time.monotonic()
    while True:
        containers = {container.service: container for container in inspect_containers(project)}
        waiting = [name for name in expected if name not in containers or not containers[name].is_fine]
        if not waiting:
            return
        step.say("waiting for " + ", ".join(waiting))
        waited_s = time.monotonic() - began
        for name in waiting:
            _raise_if_hopeless(compose, name, containers.get(name), waited_s)
        time.sleep(POLL_S)


def _raise_if_hopeless(compose: Compose, name: str, container: Container | None, waited_s: float) -> None:
    trouble = container.trouble_after(waited_s) if container is not None else ""
    if not trouble and waited_s < TIMEOUT_S:
        return
    state = trouble or f"is {container.health or container.status if container else 'not there'} after {TIMEOUT_S} s"
    log = try_run([*compose.prefix, "logs", "--no-color", "--no-log-prefix", "--tail", "15", name], env=compose.env)
    raise ServiceUnhealthyError(name, state, log or "(none)", container.probe if container else "")


def check_ports(stack: Stack, settings: EnvSettings) -> None:
    """Check that the published ports are free or used by this stack; else PortTakenError."""
    ours = published_ports(stack)
    wanted = {"PROXY_PORT": settings.proxy_port, "API_PORT": settings.api_port}
    if settings.has_metrics:
        wanted["PROMETHEUS_PORT"] = settings.prometheus_port
    for variable, port in wanted.items():
        if port not in ours and not is_free(port):
            raise PortTakenError(port, variable, stack.env_file)


def published_ports(stack: Stack) -> set[int]:
    """Return the host ports that containers of this stack publish now."""
    text = run(
        ["docker", "ps", "--filter", f"label=com.docker.compose.project={stack.project}", "--format", "{{.Ports}}"]
    )
    return parse_published(text)


def parse_published(text: str) -> set[int]:
    """Parse `127.0.0.1:4000->4000/tcp, 8090/tcp` into {4000}."""
    words = text.replace(",", " ").split()
    hosts = [word.split("->")[0] for word in words if "->" in word]
    return {int(host.rsplit(":", 1)[1]) for host in hosts if ":" in host and host.rsplit(":", 1)[1].isdigit()}


def is_free(port: int) -> bool:
    """Try to listen on a port of 127.0.0.1. A scan of listeners would miss other network namespaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            if exc.errno == errno.EACCES:
                raise SetupError(f"port {port} needs root; choose one above 1023") from exc
            return False
    return True
