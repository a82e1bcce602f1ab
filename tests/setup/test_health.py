"""What `docker inspect` says about a container, and when waiting is over."""

from __future__ import annotations

from typing import Any

import pytest

from setup.docker.health import Container, parse_container
from setup.errors import ServiceUnhealthyError


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
def test_verdicts(raw: dict[str, Any], fine: bool, trouble: str) -> None:
    container = parse_container(raw)
    assert (container.is_fine, container.trouble) == (fine, trouble)


def test_the_last_probe_is_kept() -> None:
    assert parse_container(inspected(health="unhealthy")) == Container(
        service="api", status="running", health="unhealthy", exit_code=0, restarts=0, probe="refused"
    )


def test_an_unhealthy_service_is_named_with_its_last_lines() -> None:
    text = str(ServiceUnhealthyError("api", "stopped with status 1", "\n".join(map(str, range(40))), "refused"))
    assert text.startswith("api is not healthy: it stopped with status 1\nits health check said: refused")
    assert "| 39" in text and "| 10" not in text
