"""Asks the vLLM behind a slot how it is."""

from __future__ import annotations

import time
from dataclasses import replace

import httpx
from bouchet_core.deployments import Job, Phase
from bouchet_core.errors import NODE_REFUSED
from bouchet_core.secrets import NONCE_HEADER, PROOF_HEADER, job_key, new_nonce, proves

from .observation import Answering, Health

HEALTH_TIMEOUT_S = 3.0


class SlotProbe:
    """Asks the vLLM behind a slot how it is. host, base_port: where the gateway's slots listen."""

    def __init__(self, host: str, base_port: int, serving_secret: str) -> None:
        self._url = f"http://{host}:{{port}}"
        self._base_port, self._secret = base_port, serving_secret
        self._http = httpx.Client(timeout=HEALTH_TIMEOUT_S)
        self._failing_since: dict[str, float] = {}

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def health(self, job: Job) -> Health:
        """/health, then what vLLM says of itself when that is fine."""
        found = self._asked(job)
        if found.answering is Answering.NO:
            since = self._failing_since.setdefault(job.name, time.monotonic())
            return replace(found, failing_s=time.monotonic() - since)
        self._failing_since.pop(job.name, None)
        if found.answering is Answering.DRAINING or job.phase is Phase.READY:
            return found
        return replace(found, window=self._window(job), vllm_version=self._version(job))

    def is_there(self, job: Job) -> bool:
        """Whether it answers now, and is not about to end."""
        return self._asked(job).answering is Answering.YES

    def client(self, job: Job) -> httpx.Client:
        """For further questions to a server that has just been healthy. Whoever asks closes it."""
        return httpx.Client(base_url=self._address(job), headers={"Authorization": f"Bearer {self._key(job)}"})

    def _asked(self, job: Job) -> Health:
        """What /health says, and who says so. The key is for those alone who have proved to hold it."""
        nonce = new_nonce()
        try:
            response = self._http.get(self._address(job) + "/health", headers={NONCE_HEADER: nonce})
        except httpx.HTTPError:
            return Health(Answering.NO)
        answering = Answering.YES if response.is_success else Answering.NO
        if response.headers.get("x-bouchet-state") == "draining":
            answering = Answering.DRAINING
        proof = response.headers.get(PROOF_HEADER)
        if answering is Answering.NO or not job.proves or proves(self._key(job), nonce, job.port or 0, proof):
            warning = response.headers.get("x-bouchet-warning", "")
            return Health(answering, no_way=_no_way(response) if answering is Answering.NO else "", warning=warning)
        return Health(Answering.NO, stranger=True)

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


def _no_way(response: httpx.Response) -> str:
    """The gateway's own words, where the node itself lets nobody in (`via: node`): nothing that time mends."""
    if "problem+json" not in response.headers.get("content-type", ""):
        return ""
    try:
        problem = response.json()
        return str(problem["detail"]) if problem["kind"] == NODE_REFUSED else ""
    except (ValueError, KeyError, TypeError):
        return ""
