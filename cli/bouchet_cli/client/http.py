"""HTTP to the services on this machine, with the standard library: importing httpx would double the start-up time.

Each request opens its own connection, so none is ever stale; on 127.0.0.1 this costs nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .errors import CommandError, ConnectionFailedError, ResponseLostError, UnreachableError

Json = Mapping[str, Any]

CONNECT_TIMEOUT_S = 3.0
SUCCESS = range(200, 300)
RETRY_INTERVAL_S = 0.5
# how long the API may be away, for example during a restart
RETRY_FOR_S = 60.0
STORE_UNAVAILABLE = "store_unavailable"

Answer = TypeVar("Answer")


class HttpStatusError(Exception):
    """An answer with a status other than 2xx."""

    def __init__(self, url: str, status: int, body: bytes) -> None:
        self.url, self.status, self.body = url, status, body
        super().__init__(f"{url} returned HTTP {status}")

    def json(self) -> Any:
        """Return the parsed body, None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class ServiceClient:
    """One service and its key. Its methods raise HttpStatusError and UnreachableError subclasses."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self.url, self._key, self._timeout_s = url, key, timeout_s

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """Return the JSON of the answer, None if its body is empty."""
        with self._response(method, path, body, headers, timeout_s or self._timeout_s) as response:
            content = response.read()
        try:
            return json.loads(content) if content else None
        except ValueError as exc:
            fix = "change the port in .env, or stop that program"
            raise UnreachableError(f"another program answers at {self.url}; {fix}") from exc

    def lines(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Iterator[str]:
        """Yield the lines of the answer as they arrive, without line ends."""
        with self._response(method, path, body, headers, timeout_s or self._timeout_s) as response:
            for line in response:
                yield line.decode("utf-8", "replace").rstrip("\r\n")

    @contextmanager
    def _response(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None, timeout_s: float
    ) -> Iterator[HTTPResponse]:
        connection = _connection(self.url)
        sent = {"Authorization": f"Bearer {self._key}", "Connection": "close", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            _connect(connection, self.url, timeout_s)
            _send(connection, method, path, json.dumps(body) if body is not None else None, sent)
            response = connection.getresponse()
            if response.status not in SUCCESS:
                raise HttpStatusError(self.url, response.status, response.read())
            yield response
        except (OSError, HTTPException) as exc:
            raise ResponseLostError(
                f"no complete answer from {self.url} ({type(exc).__name__}); see `make logs`"
            ) from exc
        finally:
            connection.close()


def retry_while_unavailable(request: Callable[[], Answer]) -> Answer:
    """Return the answer of `request`, repeated for RETRY_FOR_S while the API or Redis is down. Raises CommandError."""
    deadline = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            return request()
        except CommandError as exc:
            temporary = isinstance(exc, UnreachableError) or exc.kind == STORE_UNAVAILABLE
            if not temporary or exc.kind == "unauthorized" or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_INTERVAL_S)


def _connection(url: str) -> HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # the port is not a number
        host, port = None, None
    if not host:
        raise UnreachableError(f"{url!r} is not a URL such as http://127.0.0.1:4001")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(host, port, timeout=CONNECT_TIMEOUT_S)


def _send(connection: HTTPConnection, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> None:
    try:
        connection.request(method, path, body, headers)
    except ValueError as exc:  # a header with a line break, or one that is not Latin-1
        raise UnreachableError("the key contains an invalid character; `make env` checks .env") from exc


def _connect(connection: HTTPConnection, url: str, timeout_s: float) -> None:
    try:
        connection.connect()
    except OSError as exc:
        raise ConnectionFailedError(f"nothing is listening at {url}; start the stack with `make up`") from exc
    connection.sock.settimeout(timeout_s)
