"""Ports: a taken one is a sentence, unless it is taken by ourselves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from setup.docker import ports
from setup.docker.stack import Stack
from setup.errors import PortTakenError
from setup.files.env_file import Settings


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def settings_with(proxy: int, api: int) -> Settings:
    return Settings({"PROXY_PORT": str(proxy), "API_PORT": str(api)})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check(monkeypatch: pytest.MonkeyPatch, settings: Settings, ours: set[int]) -> None:
    monkeypatch.setattr(ports, "published_ports", lambda stack: ours)
    ports.check_ports(Stack(Path("/x"), "p", Path("/x/.env"), {}), settings)


def test_free_ports_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, settings_with(free_port(), free_port()), set())


def test_a_taken_port_names_itself_and_what_to_set(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    with pytest.raises(PortTakenError, match=rf"{taken}.*API_PORT=.*/x/\.env"):
        check(monkeypatch, settings_with(free_port(), taken), set())


def test_our_own_running_stack_may_hold_it(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    check(monkeypatch, settings_with(taken, free_port()), {taken})


def test_a_listener_on_all_addresses_counts() -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        assert not ports.is_free(listener.getsockname()[1])


def test_published_ports_are_read_from_docker_ps() -> None:
    text = "127.0.0.1:4000->4000/tcp\n\n127.0.0.1:4001->4001/tcp, 8090/tcp\n6379/tcp\n[::1]:22->22/tcp\n"
    assert ports.parse_published(text) == {4000, 4001, 22}
