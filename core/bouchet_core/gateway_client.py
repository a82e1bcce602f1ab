"""Typed calls to the gateway's internal API. Synchronous: the worker and the api call it from threads."""

from __future__ import annotations

import ssl
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
# added to a command's own limit, since the gateway answers when the command has ended
GRACE_S = 10.0
PUT_TIMEOUT_S = 60.0
PARALLEL_PUTS = 8
# For clients of http:// URLs: httpx would read the certificates of all authorities for each of them, in 80 ms. This
# context trusts no authority, so an https:// URL fails.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_ERRORS: dict[str, type[errors.GatewayError]] = {
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
class CommandOutput:
    """The output of a program on the cluster."""

    stdout: str
    stderr: str


@dataclass(frozen=True)
class FileChunk:
    """A part of a remote file. `size` is the whole file's, in bytes."""

    data: bytes
    size: int


class GatewayClient:
    """A client of the gateway. Every method raises GatewayError subclasses and nothing else."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        timeout = httpx.Timeout(GRACE_S, connect=CONNECT_TIMEOUT_S)
        # trust_env: Docker gives containers the HTTP proxy of its host, which cannot reach the gateway
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport, verify=NO_TLS, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections."""
        self._http.close()

    def run(self, argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 30.0) -> CommandOutput:
        """Run a program of the allowlist on the login node.

        A non-zero status raises RemoteCommandError, more output than the gateway returns OutputTooLongError.
        """
        body = {"argv": list(argv), "stdin": stdin, "timeout_s": timeout_s}
        result = self._send("POST", "/v1/run", json=body, timeout=timeout_s + GRACE_S).json()
        if result["exit_status"] != 0:
            raise errors.RemoteCommandError(argv, result["exit_status"], result["stderr"])
        if result["truncated"]:
            raise errors.OutputTooLongError(argv)
        return CommandOutput(result["stdout"], result["stderr"])

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file whole or not at all. Missing parents are created with mode 0700."""
        params = {"path": path, "mode": f"{mode:o}"}
        self._send("PUT", "/v1/files", params=params, content=data, timeout=PUT_TIMEOUT_S)

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Write several files, some in parallel, since each takes several round trips. Raises the first error."""
        with ThreadPoolExecutor(PARALLEL_PUTS, "put") as pool:
            for put in [pool.submit(self.put, path, data) for path, data in files.items()]:
                put.result()

    def get(self, path: str, offset: int = 0, max_bytes: int = 1 << 20) -> FileChunk:
        """Read a part of a file; a negative offset counts from its end."""
        params: dict[str, str | int] = {"path": path, "offset": offset, "max_bytes": max_bytes}
        response = self._send("GET", "/v1/files", params=params)
        return FileChunk(response.content, int(response.headers["X-File-Size"]))

    def status(self) -> TunnelStatus:
        """Return the tunnel's status."""
        response = self._send("GET", "/v1/status")
        try:
            return TunnelStatus.model_validate_json(response.content, extra="ignore")
        except ValidationError as exc:
            # an older or newer gateway, during `make up`
            raise errors.GatewayUnreachableError("the gateway has another version: run `make up`") from exc

    def connect(self) -> None:
        """Make the gateway connect now instead of at the end of its back-off."""
        self._send("POST", "/v1/connect")

    def answer(self, prompt_id: str, responses: Sequence[str]) -> None:
        """Answer the open prompt. The responses are sent to the SSH server and never stored."""
        self._send("POST", "/v1/answer", json={"prompt_id": prompt_id, "responses": list(responses)})

    def trust(self, fingerprint: str) -> None:
        """Accept the host key that the login node presented."""
        self._send("POST", "/v1/trust", json={"fingerprint": fingerprint})

    def forget(self, place: str) -> None:
        """Remove the host keys that were accepted for a host."""
        self._send("POST", "/v1/forget", json={"place": place})

    def _send(self, method: str, path: str, **kwargs: object) -> httpx.Response:
        try:
            response = self._http.request(method, path, **kwargs)  # type: ignore[arg-type]
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise errors.GatewayUnreachableError(f"cannot connect to the gateway ({exc}); see `make logs`") from exc
        except httpx.HTTPError as exc:
            raise errors.RemoteTimeoutError(f"no answer from the gateway in time ({exc})") from exc
        if response.is_success:
            return response
        raise _error_from(response)


def _error_from(response: httpx.Response) -> errors.GatewayError:
    try:
        problem = response.json()
    except ValueError:
        return errors.GatewayError(f"the gateway returned HTTP {response.status_code} without an error body")
    detail = str(problem.get("detail", "")) or f"the gateway returned HTTP {response.status_code}"
    return _ERRORS.get(str(problem.get("kind", "")), errors.GatewayError)(detail)
