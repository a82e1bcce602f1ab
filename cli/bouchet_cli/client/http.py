"""HTTP to the services of this machine, with the standard library: what httpx costs to import is half a `status`.

Each request has a connection of its own, so none is ever stale; on 127.0.0.1 that costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from .errors import UnreachableError

CONNECT_TIMEOUT_S = 3.0
SUCCESS = range(200, 300)


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, place: str, status: int, body: bytes) -> None:
        self.place, self.status, self.body = place, status, body
        super().__init__(f"{place} answered {status}")

    def json(self) -> Any:
        """The body, None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class NothingListensError(UnreachableError):
    """No connection could be made: the request was surely not seen."""


class BrokeOff(UnreachableError):
    """The connection ended or fell silent before the answer was whole: the request may have been seen."""


class Wire:
    """A service and the key that opens it. Raises Refused, NothingListensError and BrokeOff."""

    def __init__(self, url: str, key: str, silence_s: float) -> None:
        self.url, self._key, self._silence_s = url, key, silence_s

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        silence_s: float | None = None,
    ) -> Any:
        """The JSON of the answer, None where it has no body."""
        with self._answer(method, path, body, headers, silence_s or self._silence_s) as response:
            whole = response.read()
        try:
            return json.loads(whole) if whole else None
        except ValueError as exc:
            fix = "change the port in .env, or end the program that holds it"
            raise UnreachableError(f"what answers at {self.url} is another program; {fix}") from exc

    def lines(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        silence_s: float | None = None,
    ) -> Iterator[str]:
        """The lines of the answer as they come, without their ends."""
        with self._answer(method, path, body, headers, silence_s or self._silence_s) as response:
            for line in response:
                yield line.decode("utf-8", "replace").rstrip("\r\n")

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None, silence_s: float
    ) -> Iterator[HTTPResponse]:
        connection = _connection(self.url)
        sent = {"Authorization": f"Bearer {self._key}", "Connection": "close", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            _connect(connection, self.url, silence_s)
            _send(connection, method, path, json.dumps(body) if body is not None else None, sent)
            response = connection.getresponse()
            if response.status not in SUCCESS:
                raise Refused(self.url, response.status, response.read())
            yield response
        except (OSError, HTTPException) as exc:
            raise BrokeOff(
                f"{self.url} did not answer in time ({type(exc).__name__}); `make logs` may say why"
            ) from exc
        finally:
            connection.close()


def _connection(url: str) -> HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        host, port = None, None
    if not host:
        raise UnreachableError(f"{url!r} is no address; one looks like http://127.0.0.1:4001")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(host, port, timeout=CONNECT_TIMEOUT_S)


def _send(connection: HTTPConnection, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> None:
    try:
        connection.request(method, path, body, headers)
    except ValueError as exc:  # a header that would be two, or is no Latin-1
        raise UnreachableError("BOUCHET_API_KEY holds a character that no key has; `make env` checks .env") from exc


def _connect(connection: HTTPConnection, url: str, silence_s: float) -> None:
    try:
        connection.connect()
    except OSError as exc:
        raise NothingListensError(f"nothing answers at {url}; `make up` starts the stack") from exc
    connection.sock.settimeout(silence_s)
