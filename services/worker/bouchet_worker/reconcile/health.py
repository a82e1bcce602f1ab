"""Checks the health of the vLLM behind a slot."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx
from bouchet_core.deployments import Job, Phase
from bouchet_core.errors import NODE_REFUSED
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER, job_key, new_nonce, proves

from .observation import HealthReport, HealthStatus

HEALTH_TIMEOUT_S = 3.0
# of httpcore's `trace` extension: a connection is open, and nothing has been sent on it
_CONNECTED = "connection.connect_tcp.complete"


class SlotProbe:
    """Checks the vLLM servers behind the gateway's slots. Slot n listens on port base_port + n of host."""

    def __init__(self, host: str, base_port: int, serving_secret: str) -> None:
        self._url = f"http://{host}:{{port}}"
        self._base_port, self._secret = base_port, serving_secret
        self._http = httpx.Client(timeout=HEALTH_TIMEOUT_S, verify=NO_TLS, trust_env=False)
        self._failing_since: dict[str, float] = {}

    def close(self) -> None:
        """Close the pooled connections."""
        self._http.close()

    def health(self, job: Job) -> HealthReport:
        """Check /health and, while a starting job is healthy, read vLLM's window and version."""
        report = self._check(job)
        if report.status is HealthStatus.FAILING:
            since = self._failing_since.setdefault(job.name, time.monotonic())
            return replace(report, failing_s=time.monotonic() - since)
        self._failing_since.pop(job.name, None)
        if report.status is HealthStatus.DRAINING or job.phase is Phase.READY:
            return report
        with self.client(job) as server:
            return replace(report, window=self._window(server), vllm_version=self._version(server))

    def is_healthy(self, job: Job) -> bool:
        """Return whether the server answers now and is not about to end."""
        return self._check(job).status is HealthStatus.HEALTHY

    def client(self, job: Job) -> httpx.Client:
        """Return a client with the job's key. The caller closes it.

        The slot may lead elsewhere at each new connection, so the server proves on each one that it holds the key,
        before it is sent. A connection without proof raises httpx.ConnectError.
        """

        def prove(request: httpx.Request) -> None:
            request.extensions = {**request.extensions, "trace": self._prover(job)}

        return httpx.Client(
            base_url=self._address(job),
            headers={"Authorization": f"Bearer {key}"} if (key := self._key(job)) else {},
            verify=NO_TLS,
            trust_env=False,
            timeout=HEALTH_TIMEOUT_S,
            event_hooks={"request": [prove]} if job.proves else {},
        )

    def _prover(self, job: Job) -> Callable[[str, Mapping[str, Any]], None]:
        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event == _CONNECTED:
                stream = info["return_value"]
                if not self._proves_on(stream.get_extra_info("socket"), job):
                    stream.close()
                    raise httpx.ConnectError(f"the server of {job.name} does not prove that it holds the job's key")

        return trace

    def _proves_on(self, sock: socket.socket, job: Job) -> bool:
        """Ask for the proof on an open connection, which stays open for requests."""
        nonce = new_nonce()
        connection = http.client.HTTPConnection("slot", timeout=HEALTH_TIMEOUT_S)
        sock.settimeout(HEALTH_TIMEOUT_S)
        connection.sock = sock
        try:
            connection.request("GET", "/health", headers={NONCE_HEADER: nonce})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return False
        return proves(self._key(job), nonce, job.port or 0, response.getheader(PROOF_HEADER))

    def _check(self, job: Job) -> HealthReport:
        """Check /health and the server's proof. The key is sent only to a server that has proved that it holds it."""
        nonce = new_nonce()
        try:
            response = self._http.get(self._address(job) + "/health", headers={NONCE_HEADER: nonce})
        except httpx.HTTPError:
            return HealthReport(HealthStatus.FAILING)
        status = HealthStatus.HEALTHY if response.is_success else HealthStatus.FAILING
        if response.headers.get("x-bouchet-state") == "draining":
            status = HealthStatus.DRAINING
        warning = response.headers.get("x-bouchet-warning", "")
        if status is HealthStatus.FAILING:
            return HealthReport(status, unreachable_reason=_unreachable_reason(response), warning=warning)
        proof = response.headers.get(PROOF_HEADER)
        if job.proves and not proves(self._key(job), nonce, job.port or 0, proof):
            return HealthReport(HealthStatus.FAILING, wrong_server=True)
        return HealthReport(status, warning=warning)

    def _window(self, server: httpx.Client) -> int | None:
        try:
            return int(server.get("/v1/models").raise_for_status().json()["data"][0]["max_model_len"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
            return None

    def _version(self, server: httpx.Client) -> str | None:
        try:
            return str(server.get("/version").raise_for_status().json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def _address(self, job: Job) -> str:
        return self._url.format(port=self._base_port + job.slot)

    def _key(self, job: Job) -> str:
        return job_key(self._secret, job.name, job.sealed_key)


def _unreachable_reason(response: httpx.Response) -> str:
    """Return the gateway's message when the node refuses SSH (`via: node`), which retrying does not fix; else empty."""
    if "problem+json" not in response.headers.get("content-type", ""):
        return ""
    try:
        problem = response.json()
        return str(problem["detail"]) if problem["kind"] == NODE_REFUSED else ""
    except (ValueError, KeyError, TypeError):
        return ""
