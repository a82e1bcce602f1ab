"""The profile `metrics`: METRICS=on starts a Prometheus that sees all parts of the stack; without it there is none."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.stack.conftest import SMALL
from tests.stack.harness import ENV_FILE, Stack
from tests.stack.local.test_notifier import bring_up
from tests.waiting import wait_for

PORT = 19090
URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[str]:
    """Switch it on, yield its address, and switch it off again."""
    before = ENV_FILE.read_text()
    assert "prometheus" not in stack.containers()
    try:
        ENV_FILE.write_text(f"{before}\nMETRICS=on\nPROMETHEUS_PORT={PORT}\n")
        bring_up(stack)
        stack.wait_healthy("prometheus")
        yield URL
    finally:
        ENV_FILE.write_text(before)
        bring_up(stack)
    assert "prometheus" not in stack.containers(), "METRICS off ends it"


def values(url: str, query: str) -> dict[str, float]:
    """Ask for a query now; return the values by the label `job`."""
    found = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30).json()["data"]["result"]
    return {one["metric"].get("job", ""): float(one["value"][1]) for one in found}


@pytest.mark.long
def test_prometheus_scrapes_all_parts(stack: Stack, prometheus: str) -> None:
    wait_for(lambda: set(values(prometheus, "up").values()) == {1.0}, 120)
    assert stack.bouchet("chat", SMALL, "hello").status == 0
    wait_for(lambda: values(prometheus, 'sum by (job) ({__name__=~"vllm:generation_tokens.*"})'), 120)


@pytest.mark.long
def test_prometheus_is_on_loopback_and_shows_no_key(stack: Stack, prometheus: str) -> None:
    container = stack.container("prometheus")
    bindings = [one for found in container.attrs["NetworkSettings"]["Ports"].values() for one in found or ()]
    assert {one["HostIp"] for one in bindings} == {"127.0.0.1"}
    shown = container.logs().decode() + str(container.attrs) + httpx.get(f"{prometheus}/api/v1/status/config").text
    for key in (stack.key, stack.admin_key):
        assert key not in shown
