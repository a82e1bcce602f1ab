"""Checks the health of the vLLM behind a slot."""

from __future__ import annotations

import time
from dataclasses import replace

import httpx
from bouchet_core.deployments import Job, Phase
from bouchet_core.errors import NODE_REFUSED
from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER, job_key, new_nonce, proves

from .observation import HealthReport, HealthStatus

HEALTH_TIMEOUT_S = 3.0


class SlotProbe:
    """Checks the vLLM servers behind the gateway's slots. Slot n listens on port base_port + n of host."""

    def __init__(self, host: str, base_port: int, serving_secret: str) -> None:
        self._url = f"http://{host}:{{port}}"
        self._base_port, self._secret = base_port, serving_secret
        self._http = httpx.Client(timeout=HEALTH_TIMEOUT_S)
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
        return replace(report, window=self._window(job), vllm_version=self._version(job))

    def is_healthy(self, job: Job) -> bool:
        """Return whether the server answers now and is not about to end."""
        return self._check(job).status is HealthStatus.HEALTHY

    def client(self, job: Job) -> httpx.Client:
        """Return a client with the job's key, for a server that has just been healthy. The caller closes it."""
        return httpx.Client(base_url=self._address(job), headers={"Authorization": f"Bearer {self._key(job)}"})

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

    def _window(self, job: Job) -> int | None:
        try:
            return int(self._get(job, "/v1/models").raise_for_status().json()["data"][0]["max_model_len"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
            return None

    def _version(self, job: Job) -> str | None:
        try:
            return str(self._get(job, "/version").raise_for_status().json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def _get(self, job: Job, path: str) -> httpx.Response:
        return self._http.get(self._address(job) + path, headers={"Authorization": f"Bearer {self._key(job)}"})

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
