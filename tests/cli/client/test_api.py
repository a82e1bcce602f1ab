"""The API client: restarts of the API, other programs on its port, server-sent events."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bouchet_cli.client.api import parse_events

from tests.cli.harness import NOTHING_LISTENS, Bouchet, one_line_error
from tests.conftest import free_port


@contextmanager
def late_relay(port: int, target: int, after_s: float) -> Iterator[None]:
    """Listen on a port after a while, and relay one connection to the target."""

    def run() -> None:
        time.sleep(after_s)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            incoming, _ = listener.accept()
            with incoming, socket.create_connection(("127.0.0.1", target)) as outgoing:
                outgoing.sendall(incoming.recv(65536))
                while piece := outgoing.recv(65536):
                    incoming.sendall(piece)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_get_waits_for_a_restarting_api(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.api.RESTART_S", 60.0)
    port = free_port()
    with late_relay(port, int(bouchet.api.url.rpartition(":")[2]), after_s=0.3):
        done = bouchet("tasks", "--json", BOUCHET_API_URL=f"http://127.0.0.1:{port}")
    assert done.status == 0, done.err
    assert '"tasks": []' in done.out


def test_post_is_sent_once(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.api.RESTART_S", 60.0)
    began = time.monotonic()
    assert one_line_error(bouchet("tasks", "--retry", "x", BOUCHET_API_URL=NOTHING_LISTENS), 4)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "environment",
    [
        {"BOUCHET_API_URL": NOTHING_LISTENS},
        {"BOUCHET_API_URL": "127.0.0.1:4001"},
        {"BOUCHET_API_URL": "http://h:x"},
        {"BOUCHET_ADMIN_KEY": "wrong"},
        {"BOUCHET_ADMIN_KEY": "a\nb"},
        {"BOUCHET_ENV_FILE": "/nowhere/.env"},
    ],
)
def test_unreachable_api_is_one_line_with_status_4(bouchet: Bouchet, environment: dict[str, str]) -> None:
    assert one_line_error(bouchet("status", **environment), 4)


def test_another_program_on_the_port_is_reported(bouchet: Bouchet) -> None:
    done = bouchet("status", BOUCHET_API_URL=bouchet.proxy.url)
    assert one_line_error(done, 4) and "another program" in done.err


def test_parse_events_reads_ids_names_and_data() -> None:
    lines = [": ping", "", "id: 4", "event: problem", 'data: {"a": 1}', "", "id:5", 'data: "x"', ""]
    assert [(event.id, event.event, event.data) for event in parse_events(iter(lines))] == [
        ("4", "problem", {"a": 1}),
        ("5", "", "x"),
    ]
