"""Typed calls to the gateway's inside door. Synchronous: the worker and the api call it from threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from . import errors
from .tunnel import TunnelStatus

CONNECT_TIMEOUT_S = 5.0
# the gateway answers when the remote command does; give it a little longer than the command's own limit
GRACE_S = 10.0
PUTS_AT_ONCE = 8

_BY_KIND: dict[str, type[errors.GatewayError]] = {
    error.kind: error
    for error in (
        errors.TunnelDownError,
        errors.HumanNeededError,
        errors.RemoteTimeoutError,
        errors.RemoteFileMissingError,
        errors.RemoteFileError,
        errors.NotAllowedError,
        errors.StalePromptError,
        errors.HostKeyNotTrustedError,
    )
}


@dataclass(frozen=True)
class Output:
    """What a program on the cluster printed. `truncated`: the gateway's output limit cut stdout."""

    stdout: str
    stderr: str
    truncated: bool = False


@dataclass(frozen=True)
class Chunk:
    """A piece of a remote file. `size` is the whole file's, in bytes."""

    data: bytes
    size: int


class GatewayClient:
    """The gateway, as the rooms see it. Every method raises GatewayError subclasses and nothing else."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        timeout = httpx.Timeout(GRACE_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def run(self, argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 30.0) -> Output:
        """Runs a program of the allow-list on the login node; a non-zero status raises RemoteCommandError."""
        body = {"argv": list(argv), "stdin": stdin, "timeout_s": timeout_s}
        answer = self._send("POST", "/v1/run", json=body, timeout=timeout_s + GRACE_S).json()
        if answer["exit_status"] != 0:
            raise errors.RemoteCommandError(argv, answer["exit_status"], answer["stderr"])
        return Output(answer["stdout"], answer["stderr"], answer["truncated"])

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Writes a file whole or not at all. Parents are made, mode 0700."""
        params = {"path": path, "mode": f"{mode:o}"}
        self._send("PUT", "/v1/files", params=params, content=data, timeout=60.0)

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Writes several files, some at a time, for each is a row of answers to wait for. Tells the first error."""
        with ThreadPoolExecutor(PUTS_AT_ONCE, "put") as pool:
            for put in [pool.submit(self.put, path, data) for path, data in files.items()]:
                put.result()

    def get(self, path: str, offset: int = 0, max_bytes: int = 1 << 20) -> Chunk:
        """Reads a piece of a file; a negative offset counts from its end."""
        params: dict[str, str | int] = {"path": path, "offset": offset, "max_bytes": max_bytes}
        response = self._send("GET", "/v1/files", params=params)
        return Chunk(response.content, int(response.headers["X-File-Size"]))

    def status(self) -> TunnelStatus:
        """What the tunnel is doing now."""
        answer = self._send("GET", "/v1/status")
        try:
            return TunnelStatus.model_validate_json(answer.content)
        except ValidationError as exc:
            # an older or newer gateway, in the middle of `make up`
            raise errors.GatewayUnreachableError(
                "the tunnel gateway speaks another version; `make up` renews it"
            ) from exc

    def connect(self) -> None:
        """Asks the gateway to try now instead of at the end of its back-off."""
        self._send("POST", "/v1/connect")

    def answer(self, prompt_id: str, responses: Sequence[str]) -> None:
        """Answers the open prompt. Responses go to the SSH server and nowhere else."""
        self._send("POST", "/v1/answer", json={"prompt_id": prompt_id, "responses": list(responses)})

    def trust(self, fingerprint: str) -> None:
        """Accepts the host key that the login node showed."""
        self._send("POST", "/v1/trust", json={"fingerprint": fingerprint})

    def forget(self, place: str) -> None:
        """Forgets the host keys that were accepted for a host."""
        self._send("POST", "/v1/forget", json={"place": place})

    def _send(self, method: str, path: str, **kwargs: object) -> httpx.Response:
        try:
            response = self._http.request(method, path, **kwargs)  # type: ignore[arg-type]
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise errors.GatewayUnreachableError(
                f"the tunnel gateway does not answer ({exc}); see `make logs`"
            ) from exc
        except httpx.HTTPError as exc:
            raise errors.RemoteTimeoutError(f"the tunnel gateway did not answer in time ({exc})") from exc
        if response.is_success:
            return response
        raise _error_from(response)


def _error_from(response: httpx.Response) -> errors.GatewayError:
    try:
        problem = response.json()
    except ValueError:
        return errors.GatewayError(f"the tunnel gateway answered {response.status_code} without words")
    detail = str(problem.get("detail", "")) or f"the tunnel gateway answered {response.status_code}"
    return _BY_KIND.get(str(problem.get("kind", "")), errors.GatewayError)(detail)
