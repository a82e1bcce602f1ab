"""Containers: their health and their ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from setup.docker import containers
from setup.docker.containers import RECOVERY_S, Container, parse_container
from setup.docker.stack import Stack
from setup.errors import PortTakenError, ServiceUnhealthyError
from setup.files.env_file import EnvSettings


def inspected(
    status: str = "running", health: str | None = None, exit_code: int = 0, restarts: int = 0
) -> dict[str, Any]:
    state: dict[str, Any] = {"Status": status, "ExitCode": exit_code}
    if health:
        state["Health"] = {"Status": health, "Log": [{"Output": "first"}, {"Output": " refused\n"}]}
    labels = {"com.docker.compose.service": "api"}
    return {"State": state, "Config": {"Labels": labels}, "RestartCount": restarts}


@pytest.mark.parametrize(
    ("raw", "fine", "trouble"),
    [
        (inspected(health="healthy"), True, ""),
        (inspected(), True, ""),
        (inspected(health="starting"), False, ""),
        (inspected(health="unhealthy"), False, "fails its health check"),
        (inspected("exited"), True, ""),
        (inspected("exited", exit_code=1), False, "stopped with status 1"),
        (inspected("restarting", exit_code=1, restarts=2), False, ""),
        (inspected("restarting", exit_code=1, restarts=3), False, "was restarted 3 times"),
        (inspected("created"), False, ""),
    ],
)
def test_container_state_is_classified(raw: dict[str, Any], fine: bool, trouble: str) -> None:
    container = parse_container(raw)
    assert (container.is_fine, container.trouble_after(RECOVERY_S)) == (fine, trouble)


def test_container_that_was_paused_has_time_for_a_health_check() -> None:
    assert parse_container(inspected(health="unhealthy")).trouble_after(RECOVERY_S - 1) == ""


def test_parse_container_keeps_last_probe() -> None:
    assert parse_container(inspected(health="unhealthy")) == Container(
        service="api", status="running", health="unhealthy", exit_code=0, restarts=0, probe="refused"
    )


def test_unhealthy_service_error_names_service_and_log() -> None:
    text = str(ServiceUnhealthyError("api", "stopped with status 1", "\n".join(map(str, range(40))), "refused"))
    assert text.startswith("api is not healthy: it stopped with status 1\nhealth check: refused")
    assert "| 39" in text and "| 10" not in text


@pytest.fixture
def taken() -> Iterator[int]:
    """Yield a port on which a program listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def settings_with(proxy: int, api: int) -> EnvSettings:
    return EnvSettings({"PROXY_PORT": str(proxy), "API_PORT": str(api)})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check(monkeypatch: pytest.MonkeyPatch, settings: EnvSettings, ours: set[int]) -> None:
    monkeypatch.setattr(containers, "published_ports", lambda stack: ours)
    containers.check_ports(Stack(Path("/x"), "p", Path("/x/.env"), {}), settings)


def test_check_ports_free_ports_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, settings_with(free_port(), free_port()), set())


def test_check_ports_taken_port_names_variable(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    with pytest.raises(PortTakenError, match=rf"{taken}.*API_PORT=.*/x/\.env"):
        check(monkeypatch, settings_with(free_port(), taken), set())


def test_check_ports_own_stack_passes(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    check(monkeypatch, settings_with(taken, free_port()), {taken})


def test_is_free_listener_on_all_addresses_is_taken() -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        assert not containers.is_free(listener.getsockname()[1])


def test_parse_published_reads_docker_ps() -> None:
    text = "127.0.0.1:4000->4000/tcp\n\n127.0.0.1:4001->4001/tcp, 8090/tcp\n6379/tcp\n[::1]:22->22/tcp\n"
    assert containers.parse_published(text) == {4000, 4001, 22}
