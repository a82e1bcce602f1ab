"""Typed calls to the API on this machine. Every method raises CommandError subclasses and nothing else."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .deployments import DeploymentInfo, unique_match
from .errors import CommandError, UnreachableError
from .http import HttpStatusError, Json, ServiceClient
from .problems import UNKNOWN_DEPLOYMENT, api_error
from .records import DownloadInfo, ImageJobInfo, StatusInfo, TunnelInfo
from .settings import CliSettings

# the API itself waits up to 7 s for a Redis that restarts
REQUEST_TIMEOUT_S = 30.0
# a GET is repeated for so long while nothing listens: the API may be restarting
RESTART_S = 2.0
RESTART_INTERVAL_S = 0.2
# the API runs about ten commands on the login node
CLUSTER_TIMEOUT_S = 120.0
# the server sends a keep-alive every 15 s
STREAM_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream, with its parsed data."""

    id: str
    event: str
    data: Any


class ApiClient:
    """The API, with its key."""

    def __init__(self, settings: CliSettings, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._service = ServiceClient(settings.api_url, settings.admin_key, timeout_s)

    def launch(self, request: Json) -> DeploymentInfo:
        """Create a deployment. A lost answer is requested again, with the same key, so only one is created."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        try:
            answer = self._send("POST", "/v1/deployments", request, headers)
        except UnreachableError as exc:
            if exc.kind:
                raise
            answer = self._send("POST", "/v1/deployments", request, headers)
        return DeploymentInfo.from_json(answer)

    def attach(self, request: Json) -> DeploymentInfo:
        """Make a deployment of a server that runs without a job of ours."""
        return DeploymentInfo.from_json(
            self._send("POST", "/v1/deployments/attach", request, timeout_s=CLUSTER_TIMEOUT_S)
        )

    def preview(self, request: Json) -> Json:
        """Return what a launch would submit, without submitting it."""
        return self._send("POST", "/v1/deployments/preview", request)

    def status(self) -> StatusInfo:
        """Return all that `bouchet status` shows."""
        return StatusInfo.from_json(self._send("GET", "/v1/status"))

    def deployments(self, *, live: bool, limit: int = 200) -> list[DeploymentInfo]:
        """Return deployments, newest first."""
        body = self._send("GET", f"/v1/deployments?live={str(live).lower()}&limit={limit}")
        return [DeploymentInfo.from_json(raw) for raw in body["deployments"]]

    def deployment(self, name: str) -> DeploymentInfo:
        """Return one deployment by id or by the name of a live one, or by a part of either that is unique."""
        try:
            return DeploymentInfo.from_json(self._send("GET", _path(name)))
        except CommandError as exc:
            if exc.kind != UNKNOWN_DEPLOYMENT:
                raise
            found = unique_match(name, self.deployments(live=False))
            if found is None:
                raise
            return found

    def find_deployment(self, name: str) -> DeploymentInfo:
        """Return one deployment by id or name; if no live one has the name, the newest ended one."""
        try:
            return self.deployment(name)
        except CommandError as exc:
            known = self.deployments(live=False) if exc.kind == UNKNOWN_DEPLOYMENT else []
            found = next((deployment for deployment in known if deployment.matches(name)), None)
            if found is None:
                raise
            return found

    def change_policy(self, name: str, policy: Json) -> DeploymentInfo:
        """Change the policy of a deployment; an empty one resumes it."""
        return DeploymentInfo.from_json(self._send("PATCH", _path(name), policy))

    def cancel(self, name: str) -> DeploymentInfo:
        """Request the end of a deployment."""
        return DeploymentInfo.from_json(self._send("DELETE", _path(name)))

    def orphans(self) -> list[Json]:
        """Return the orphaned jobs that are on the cluster now."""
        return list(self._send("GET", "/v1/orphans")["orphans"])

    def adopt(self, slurm_id: int) -> DeploymentInfo:
        """Create a deployment for an orphaned job."""
        return DeploymentInfo.from_json(self._send("POST", f"/v1/orphans/{slurm_id}/adopt"))

    def cancel_orphan(self, slurm_id: int) -> Json:
        """Cancel an orphaned job."""
        return self._send("DELETE", f"/v1/orphans/{slurm_id}")

    def failed_tasks(self) -> list[Json]:
        """Return the worker's failed tasks."""
        return list(self._send("GET", "/v1/tasks/failed")["tasks"])

    def retry_task(self, task: str) -> Json:
        """Retry a failed task."""
        return self._send("POST", f"/v1/tasks/failed/{quote(task, safe='')}/retry")

    def drop_task(self, task: str) -> Json:
        """Discard a failed task."""
        return self._send("DELETE", f"/v1/tasks/failed/{quote(task, safe='')}")

    def models(self, *, refresh: bool = False) -> Json:
        """Return the catalog: `default` and `models`. refresh: list the cluster's disk again, which takes a moment."""
        return self._send("GET", f"/v1/models?refresh={str(refresh).lower()}")

    def inspect_model(self, model: str, revision: str | None) -> Json:
        """Ask the hub about a model: what it is, and a catalog entry for it."""
        request = {"model": model, **({"revision": revision} if revision else {})}
        return self._send("POST", "/v1/models/inspect", request, timeout_s=CLUSTER_TIMEOUT_S)

    def model(self, name: str) -> Json:
        """Return one model of the catalog."""
        return self._send("GET", f"/v1/models/{quote(name, safe='/')}")

    def remove_model(self, name: str, *, force: bool) -> Json:
        """Remove a model's weights from the cluster."""
        path = f"/v1/models/{quote(name, safe='/')}?force={str(force).lower()}"
        return self._send("DELETE", path, timeout_s=2 * CLUSTER_TIMEOUT_S)

    def download(self, model: str, revision: str | None) -> DownloadInfo:
        """Start a download; if the model is being downloaded already, return that download."""
        request = {"model": model, **({"revision": revision} if revision else {})}
        return DownloadInfo.from_json(self._send("POST", "/v1/models/download", request))

    def downloads(self) -> list[DownloadInfo]:
        """Return downloads, newest first."""
        return [DownloadInfo.from_json(raw) for raw in self._send("GET", "/v1/downloads?limit=20")["downloads"]]

    def download_record(self, name: str) -> DownloadInfo:
        """Return one download by id, or by its model while it is active."""
        return DownloadInfo.from_json(self._send("GET", f"/v1/downloads/{quote(name, safe='')}"))

    def cancel_download(self, name: str) -> DownloadInfo:
        """Request the end of a download."""
        return DownloadInfo.from_json(self._send("DELETE", f"/v1/downloads/{quote(name, safe='')}"))

    def images(self) -> Json:
        """Return pins and images, as the cluster lists them now."""
        return self._send("GET", "/v1/images", timeout_s=CLUSTER_TIMEOUT_S)

    def image_job(self, request: Json) -> ImageJobInfo:
        """Start a build or a verification; if the pin has an active job, return that job."""
        return ImageJobInfo.from_json(self._send("POST", "/v1/images/jobs", request))

    def image_record(self, name: str) -> ImageJobInfo:
        """Return one image job by id, or by its pin while it is active."""
        return ImageJobInfo.from_json(self._send("GET", f"/v1/images/jobs/{quote(name, safe='')}"))

    def cancel_image(self, name: str) -> ImageJobInfo:
        """Request the end of an image job."""
        return ImageJobInfo.from_json(self._send("DELETE", f"/v1/images/jobs/{quote(name, safe='')}"))

    def remove_image(self, pin: str, *, force: bool) -> Json:
        """Remove an image from the cluster."""
        path = f"/v1/images/{quote(pin, safe='')}?force={str(force).lower()}"
        return self._send("DELETE", path, timeout_s=CLUSTER_TIMEOUT_S)

    def doctor(self) -> Json:
        """Return the checks of stack, SSH and cluster."""
        return self._send("GET", "/v1/doctor", timeout_s=CLUSTER_TIMEOUT_S)

    def notifications(self) -> Json:
        """Return where messages are sent, and what became of the last ones."""
        return self._send("GET", "/v1/notifications")

    def test_notifications(self) -> Json:
        """Send a test message to each target, and return what became of it."""
        return self._send("POST", "/v1/notifications/test", timeout_s=CLUSTER_TIMEOUT_S)

    def add_key(self, request: Json) -> Json:
        """Create a key; the answer holds the key itself."""
        return self._send("POST", "/v1/keys", request)

    def keys(self) -> list[Json]:
        """Return all keys except the owner's."""
        return list(self._send("GET", "/v1/keys")["keys"])

    def revoke_key(self, holder: str) -> Json:
        """Revoke a key."""
        return self._send("DELETE", f"/v1/keys/{quote(holder, safe='')}")

    def usage(self, by: str, since: str) -> Json:
        """Return usage sums."""
        return self._send("GET", f"/v1/usage?by={quote(by)}&since={quote(since, safe='')}")

    def ledger(self, query: Mapping[str, str | None], *, gpu: bool) -> Json:
        """Return sums over whole days: of requests, or of GPU time."""
        given = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
        return self._send("GET", f"/v1/ledger{'/gpu' if gpu else ''}?{given}")

    def tunnel(self) -> TunnelInfo:
        """Return the state of the SSH connection."""
        return TunnelInfo.from_json(self._send("GET", "/v1/tunnel"))

    def connect(self) -> None:
        """Request a connection attempt now."""
        self._send("POST", "/v1/tunnel/connect")

    def trust(self, fingerprint: str) -> None:
        """Accept the unknown host key with this fingerprint."""
        self._send("POST", "/v1/tunnel/trust", {"fingerprint": fingerprint})

    def forget(self, host: str) -> None:
        """Remove the host keys that were accepted for a host."""
        self._send("POST", "/v1/tunnel/forget", {"place": host})

    def answer(self, prompt_id: str, responses: list[str]) -> None:
        """Answer the open prompt."""
        self._send("POST", "/v1/tunnel/answer", {"prompt_id": prompt_id, "responses": responses})

    def events(self) -> Iterator[ServerSentEvent]:
        """Yield the API's events from now on, `tunnel` among them. Raises UnreachableError if the connection breaks."""
        return self._stream("/v1/events")

    def live(self) -> Iterator[ServerSentEvent]:
        """Yield the parts of the live view: all of them, then each that changes. Raises UnreachableError at a break."""
        return self._stream("/v1/live")

    def session_link(self) -> Json:
        """Return a link to the dashboard that signs in a browser, once."""
        return self._send("POST", "/v1/session/link")

    def log(self, name: str, *, follow: bool, after: str | None = None) -> Iterator[ServerSentEvent]:
        """Yield the events of a log stream. Raises UnreachableError if the connection breaks."""
        headers = {"Last-Event-ID": after} if after else {}
        return self._stream(f"{_path(name)}/logs?follow={str(follow).lower()}", headers)

    def _stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[ServerSentEvent]:
        try:
            yield from parse_events(self._service.lines("GET", path, headers=headers, timeout_s=STREAM_TIMEOUT_S))
        except HttpStatusError as exc:
            raise api_error(exc) from exc

    def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Json:
        deadline = time.monotonic() + (RESTART_S if method == "GET" else 0)
        while True:
            try:
                answer: Json = self._service.request(method, path, body, headers, timeout_s=timeout_s)
            except HttpStatusError as exc:
                raise api_error(exc, path) from exc
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RESTART_INTERVAL_S)
                continue
            return answer


def parse_events(lines: Iterator[str]) -> Iterator[ServerSentEvent]:
    """Parse the lines of a stream of server-sent events with JSON data."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            if "data" in fields:
                yield ServerSentEvent(fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"]))
            fields = {}
        elif name:
            fields[name] = value.removeprefix(" ")


def _path(name: str) -> str:
    return f"/v1/deployments/{quote(name, safe='')}"
