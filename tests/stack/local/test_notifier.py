"""The notifier's container: it is there only with a target, reaches it, and reaches no service but Redis."""

from __future__ import annotations

import ipaddress
import sys
import time
from collections.abc import Iterator

import pytest

from tests.fakes.redis_attacks import MUST_NOT
from tests.notifier.receiver import PASSWORD, SECRET_PATH, USER, Receiver, running_receiver
from tests.stack.harness import ENV_FILE, LOCAL_SERVICES, UP_TIMEOUT_S, Stack
from tests.stack.local.test_isolation import DIAL
from tests.stack.local.test_walls import try_in

UP = [sys.executable, "-m", "setup", "up", "--no-launch"]
# the address of this machine on the engine's own bridge
BRIDGE = "bridge"


def bring_up(stack: Stack) -> None:
    """Apply the env file."""
    done = stack._finish(UP, stack.environ, UP_TIMEOUT_S)
    assert done.status == 0, done.output
    assert SECRET_PATH not in done.output and PASSWORD not in done.output


@pytest.fixture(scope="module")
def receiver(stack: Stack) -> Iterator[Receiver]:
    """Add a target to the env file, yield what it receives, and take it away again."""
    before = ENV_FILE.read_text()
    config = stack.docker.networks.get(BRIDGE).attrs["IPAM"]["Config"][0]
    # an engine that has just made its bridge does not say which address is its own: it is the first one
    address = config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))
    assert "notifier" not in stack.containers(), "without a target there is no container"
    with running_receiver(address) as receiver:
        url = receiver.url.replace("127.0.0.1", address)
        try:
            ENV_FILE.write_text(f"{before}\nNOTIFY_URLS={url}\n")
            bring_up(stack)
            yield receiver
        finally:
            ENV_FILE.write_text(before)
            bring_up(stack)
    assert "notifier" not in stack.containers(), "an empty NOTIFY_URLS ends it"


def test_test_message_leaves_the_container(stack: Stack, receiver: Receiver) -> None:
    stack.wait_healthy("notifier")
    done = stack.bouchet("notify", "test")
    assert done.status == 0 and "target 1: JSON (json://***) sent" in done.stdout, done.output
    # what happened in the last minutes before the first start is sent as well
    assert receiver.titles.count("bouchet-llm: a test") == 1
    shown = stack.bouchet("notify")
    assert shown.status == 0 and "works" in shown.stdout
    for secret in (SECRET_PATH, PASSWORD, USER):
        assert secret not in done.output + shown.output
        assert secret not in stack.container("notifier").logs().decode()
        assert secret not in str(stack.container("notifier").attrs)


@pytest.mark.usefixtures("receiver")
def test_notifier_is_small_and_idle(stack: Stack) -> None:
    began, used = time.monotonic(), stack.cpu_s("notifier")
    time.sleep(20)
    share = (stack.cpu_s("notifier") - used) / (time.monotonic() - began)
    memory = {service: stack.memory_mib(service) for service in (*LOCAL_SERVICES, "notifier")}
    print(f"notifier: {share:.2%} of a core; memory {memory}")
    assert share < 0.02
    assert memory["notifier"] <= 60 and sum(memory.values()) <= 750, memory


@pytest.mark.usefixtures("receiver")
def test_notifier_reaches_no_service_but_redis(stack: Stack) -> None:
    assert set(stack.on("notifier", ["ls", "/run/secrets"]).stdout.split()) == {"notify_urls", "redis_password"}
    containers = stack.containers()
    for service, port in (("gateway", 8090), ("gateway", 8100), ("api", 4001), ("proxy", 4000), ("demo-login", 22)):
        addresses = [
            network["IPAddress"] for network in containers[service].attrs["NetworkSettings"]["Networks"].values()
        ]
        for address in (service, *addresses):
            done = stack.on("notifier", ["python", "-c", DIAL, address, str(port)])
            assert done.status != 0, f"the notifier reached {address}:{port}"
    assert stack.on("notifier", ["python", "-c", DIAL, "redis", "6379"]).status == 0
    commands = MUST_NOT["notifier"]
    errors = try_in(stack, "notifier", "notifier", commands)
    allowed = [command for command, error in zip(commands, errors, strict=True) if not error]
    assert not allowed, allowed
