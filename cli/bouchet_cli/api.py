"""Typed calls to the API of this machine. Every method raises CommandError subclasses and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from .errors import CommandError, NotReadyError, UnreachableError
from .records import Deployment, Json, Tunnel
from .settings import Settings

CONNECT_TIMEOUT_S = 3.0
# the API itself waits up to 7 s for a Redis that restarts
ANSWER_TIMEOUT_S = 30.0
# the server sends a keep-alive every 15 s
STREAM_SILENCE_S = 60.0


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    id: str
    event: str
    data: Any


class Api:
    """The API, with the key."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.api_url
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        headers = {"Authorization": f"Bearer {settings.key}"}
        # a proxy of the environment is not for 127.0.0.1
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def launch(self, request: Json, key: str) -> Deployment:
        """Asks for a deployment; with the same key again it is the same one."""
        return Deployment.from_json(self._send("POST", "/v1/deployments", request, {"Idempotency-Key": key}))

    def deployments(self, *, live: bool, limit: int = 200) -> list[Deployment]:
        """Deployments, newest first."""
        body = self._send("GET", f"/v1/deployments?live={str(live).lower()}&limit={limit}")
        return [Deployment.from_json(raw) for raw in body["deployments"]]

    def deployment(self, name: str) -> Deployment:
        """One deployment by id or live name."""
        return Deployment.from_json(self._send("GET", _path(name)))

    def cancel(self, name: str) -> Deployment:
        """Asks that it end."""
        return Deployment.from_json(self._send("DELETE", _path(name)))

    def models(self) -> Json:
        """The catalog: `default` and `models`."""
        return self._send("GET", "/v1/models")

    def tunnel(self) -> Tunnel:
        """The SSH connection now."""
        return Tunnel.from_json(self._send("GET", "/v1/tunnel"))

    def connect(self) -> None:
        """Tries to connect now."""
        self._send("POST", "/v1/tunnel/connect")

    def answer(self, prompt_id: str, responses: list[str]) -> None:
        """Answers the open prompt."""
        self._send("POST", "/v1/tunnel/answer", {"prompt_id": prompt_id, "responses": responses})

    def log(self, name: str, *, follow: bool, after: str | None = None) -> Iterator[Message]:
        """The messages of a log stream. Raises UnreachableError where the connection breaks."""
        headers = {"Last-Event-ID": after} if after else {}
        timeout = httpx.Timeout(STREAM_SILENCE_S, connect=CONNECT_TIMEOUT_S)
        path = f"{_path(name)}/logs?follow={str(follow).lower()}"
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                yield from parse_messages(response.iter_lines())
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc

    def _send(self, method: str, path: str, body: Json | None = None, headers: Mapping[str, str] | None = None) -> Json:
        try:
            response = self._http.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as exc:
            raise _unreachable(self.url, exc) from exc
        if not response.is_success:
            raise error_of(response)
        answer: Json = response.json()
        return answer


def parse_messages(lines: Iterator[str]) -> Iterator[Message]:
    """Server-sent events with JSON data, from the lines of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            if "data" in fields:
                yield Message(fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"]))
            fields = {}
        elif name:
            fields[name] = value.removeprefix(" ")


def error_of(response: httpx.Response) -> CommandError:
    """What an answer that is no success means to a person."""
    try:
        problem: Json = response.json()
        detail, kind = str(problem["detail"]), str(problem.get("kind", ""))
    except (ValueError, TypeError, KeyError):
        detail, kind = f"{response.url.host}:{response.url.port} answered {response.status_code} without words", ""
    if response.status_code == 401:
        return UnreachableError(
            "the stack was started with another key than the one in .env; run `make up` again", kind
        )
    if kind == "unknown_deployment":
        return NotReadyError(detail, kind)
    return CommandError(detail, kind)


def _unreachable(url: str, exc: httpx.HTTPError) -> UnreachableError:
    if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
        return UnreachableError(f"nothing answers at {url}; `make up` starts the stack")
    return UnreachableError(f"{url} did not answer in time ({type(exc).__name__}); `make logs` may say why")


def _path(name: str) -> str:
    return f"/v1/deployments/{quote(name, safe='')}"
