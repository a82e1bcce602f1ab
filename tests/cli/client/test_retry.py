"""Requests repeated while the API restarts, and launches submitted once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.errors import CommandError, UnreachableError
from bouchet_cli.client.http import retry_while_unavailable
from bouchet_cli.client.settings import CliSettings

from tests.cli.samples import deployment_json


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.http.RETRY_INTERVAL_S", 0.0)


def failing(*errors: CommandError) -> Callable[[], int]:
    """Return a function that raises these errors, and then returns how often it was called."""
    left, calls = list(errors), [0]

    def request() -> int:
        calls[0] += 1
        if left:
            raise left.pop(0)
        return calls[0]

    return request


@pytest.mark.parametrize("error", [UnreachableError("down"), CommandError("redis is down", "store_unavailable")])
def test_temporary_error_is_repeated(error: CommandError) -> None:
    assert retry_while_unavailable(failing(error, error)) == 3


@pytest.mark.parametrize("error", [UnreachableError("wrong key", "unauthorized"), CommandError("gone", "unknown")])
def test_permanent_error_is_raised(error: CommandError) -> None:
    request = failing(error)
    with pytest.raises(type(error)):
        retry_while_unavailable(request)
    assert request() == 2


def test_retry_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.http.RETRY_FOR_S", -1.0)
    with pytest.raises(UnreachableError):
        retry_while_unavailable(failing(UnreachableError("down")))


class LaunchServer(HTTPServer):
    """Answers launches; `statuses` are the next ones, and 0 closes the connection without an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LaunchHandler)
        self.statuses: list[int] = []
        self.keys: list[str | None] = []


class LaunchHandler(BaseHTTPRequestHandler):
    server: LaunchServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])
        status = self.server.statuses.pop(0)
        if status:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(deployment_json("a") if status == 201 else b'{"detail": "wrong", "kind": "unauthorized"}')

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[LaunchServer]:
    with LaunchServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(server: LaunchServer) -> ApiClient:
    return ApiClient(CliSettings(f"http://127.0.0.1:{server.server_port}", "http://proxy", "key", "admin-key"))


def test_launch_whose_answer_is_lost_is_repeated_with_the_same_key(api: ApiClient, server: LaunchServer) -> None:
    server.statuses = [0, 201]
    assert api.launch({"model": "m"}).id == "a"
    assert len(server.keys) == 2 and len(set(server.keys)) == 1


def test_launch_with_a_wrong_key_is_not_repeated(api: ApiClient, server: LaunchServer) -> None:
    server.statuses = [401]
    with pytest.raises(UnreachableError):
        api.launch({"model": "m"})
    assert len(server.keys) == 1
