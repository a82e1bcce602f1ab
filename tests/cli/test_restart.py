"""The API is away for a moment: a question waits for it, briefly, and the error is one line."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.cli.conftest import Bouchet
from tests.conftest import free_port


def relay_later(port: int, target: int, after_s: float) -> threading.Thread:
    """Something that begins to listen after a while and passes one connection on."""

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
    return thread


def test_a_question_outlasts_a_restart_of_the_api(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.api.RESTART_S", 60.0)
    port = free_port()
    relay = relay_later(port, int(bouchet.api.url.rpartition(":")[2]), after_s=0.5)
    done = bouchet("tasks", "--json", BOUCHET_API_URL=f"http://127.0.0.1:{port}")
    relay.join()
    assert done.status == 0, done.err
    assert '"tasks": []' in done.out


def test_an_api_that_stays_away_is_one_line_and_soon(bouchet: Bouchet) -> None:
    began = time.monotonic()
    done = bouchet("tasks", BOUCHET_API_URL=f"http://127.0.0.1:{free_port()}")
    assert done.status == 4
    assert done.err.count("\n") == 1 and "`make up`" in done.err
    assert time.monotonic() - began < 60


def test_a_change_is_asked_for_once(bouchet: Bouchet) -> None:
    done = bouchet("tasks", "--retry", "x", BOUCHET_API_URL=f"http://127.0.0.1:{free_port()}")
    assert done.status == 4 and done.err.count("\n") == 1
