"""Typed calls to the API of this machine. Every method raises CommandError subclasses and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .errors import CommandError, NotReadyError, UnreachableError
from .http import Refused, Wire
from .option_names import as_typed
from .records import Deployment, Download, ImageJob, Json, Tunnel
from .settings import Settings

# the API itself waits up to 7 s for a Redis that restarts
ANSWER_TIMEOUT_S = 30.0
# a question is asked again for so long while nothing listens: the API may be on its way back from a restart
RESTART_S = 2.0
RESTART_LOOK_S = 0.2
DOCTOR_TIMEOUT_S = 120.0
# the server sends a keep-alive every 15 s
STREAM_SILENCE_S = 60.0
# the API's word where there is no deployment of that name
UNKNOWN = "unknown_deployment"


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    id: str
    event: str
    data: Any


class Api:
    """The API, with the key."""

    def __init__(self, settings: Settings, patience_s: float = ANSWER_TIMEOUT_S) -> None:
        self._wire = Wire(settings.api_url, settings.key, patience_s)

    def launch(self, request: Json, key: str) -> Deployment:
        """Asks for a deployment; with the same key again it is the same one."""
        return Deployment.from_json(self._send("POST", "/v1/deployments", request, {"Idempotency-Key": key}))

    def preview(self, request: Json) -> Json:
        """What a launch would submit; nothing is done."""
        return self._send("POST", "/v1/deployments/preview", request)

    def deployments(self, *, live: bool, limit: int = 200) -> list[Deployment]:
        """Deployments, newest first."""
        body = self._send("GET", f"/v1/deployments?live={str(live).lower()}&limit={limit}")
        return [Deployment.from_json(raw) for raw in body["deployments"]]

    def unasked(self) -> Json | None:
        """What the worker could not ask the cluster lately; None while all is answered."""
        found = self._send("GET", "/v1/deployments?live=true&limit=1").get("cluster_outage")
        return dict(found) if found else None

    def deployment(self, name: str) -> Deployment:
        """One deployment by id or live name."""
        return Deployment.from_json(self._send("GET", _path(name)))

    def remembered(self, name: str) -> Deployment:
        """One deployment by id or live name; where none of that name lives, the newest one that did."""
        try:
            return self.deployment(name)
        except CommandError as exc:
            ended = self.deployments(live=False) if exc.kind == UNKNOWN else []
            found = next((deployment for deployment in ended if deployment.answers_to(name)), None)
            if found is None:
                raise
            return found

    def cancel(self, name: str) -> Deployment:
        """Asks that it end."""
        return Deployment.from_json(self._send("DELETE", _path(name)))

    def orphans(self, *, fresh: bool) -> list[Json]:
        """Jobs without a record; fresh: the cluster is asked."""
        answer = self._send("GET", f"/v1/orphans?fresh={str(fresh).lower()}")
        return list(answer["orphans"])

    def adopt(self, slurm_id: int) -> Deployment:
        """Takes a job over."""
        return Deployment.from_json(self._send("POST", f"/v1/orphans/{slurm_id}/adopt"))

    def cancel_orphan(self, slurm_id: int) -> Json:
        """Ends a job without a record."""
        return self._send("DELETE", f"/v1/orphans/{slurm_id}")

    def failed_tasks(self) -> list[Json]:
        """What the worker could not do."""
        return list(self._send("GET", "/v1/tasks/failed")["tasks"])

    def retry_task(self, task: str) -> Json:
        """Tries a failed task once more."""
        return self._send("POST", f"/v1/tasks/failed/{quote(task, safe='')}/retry")

    def drop_task(self, task: str) -> Json:
        """Forgets a failed task."""
        return self._send("DELETE", f"/v1/tasks/failed/{quote(task, safe='')}")

    def models(self, *, look: bool = False) -> Json:
        """The catalog: `default` and `models`. look: the cluster's disk is looked at anew, which may take a moment."""
        return self._send("GET", f"/v1/models?refresh={str(look).lower()}")

    def download(self, model: str, revision: str | None) -> Download:
        """Asks that a model be fetched; one under way is the answer as it is."""
        wanted = {"model": model, **({"revision": revision} if revision else {})}
        return Download.from_json(self._send("POST", "/v1/models/download", wanted))

    def downloads(self) -> list[Download]:
        """Downloads, newest first."""
        return [Download.from_json(raw) for raw in self._send("GET", "/v1/downloads?limit=20")["downloads"]]

    def download_record(self, name: str) -> Download:
        """One download by id, or by its model while it is under way."""
        return Download.from_json(self._send("GET", f"/v1/downloads/{quote(name, safe='')}"))

    def cancel_download(self, name: str) -> Download:
        """Asks that it end."""
        return Download.from_json(self._send("DELETE", f"/v1/downloads/{quote(name, safe='')}"))

    def images(self) -> Json:
        """Pins and images; the cluster is asked."""
        return self._send("GET", "/v1/images", silence_s=DOCTOR_TIMEOUT_S)

    def image_job(self, request: Json) -> ImageJob:
        """Asks that an image be built or verified; what is under way for the pin is the answer as it is."""
        return ImageJob.from_json(self._send("POST", "/v1/images/jobs", request))

    def image_record(self, name: str) -> ImageJob:
        """One build or verification by id, or by its pin while it is under way."""
        return ImageJob.from_json(self._send("GET", f"/v1/images/jobs/{quote(name, safe='')}"))

    def cancel_image(self, name: str) -> ImageJob:
        """Asks that it end."""
        return ImageJob.from_json(self._send("DELETE", f"/v1/images/jobs/{quote(name, safe='')}"))

    def remove_image(self, pin: str, *, force: bool) -> Json:
        """Removes an image from the cluster."""
        path = f"/v1/images/{quote(pin, safe='')}?force={str(force).lower()}"
        return self._send("DELETE", path, silence_s=DOCTOR_TIMEOUT_S)

    def doctor(self) -> Json:
        """What is well and what is not; the cluster is asked some ten questions."""
        return self._send("GET", "/v1/doctor", silence_s=DOCTOR_TIMEOUT_S)

    def add_key(self, request: Json) -> Json:
        """A new key, with the key itself."""
        return self._send("POST", "/v1/keys", request)

    def keys(self) -> list[Json]:
        """All keys but the owner's."""
        return list(self._send("GET", "/v1/keys")["keys"])

    def revoke_key(self, holder: str) -> Json:
        """Makes a key worthless."""
        return self._send("DELETE", f"/v1/keys/{quote(holder, safe='')}")

    def usage(self, by: str, since: str) -> Json:
        """Sums of what was used."""
        return self._send("GET", f"/v1/usage?by={quote(by)}&since={quote(since, safe='')}")

    def tunnel(self) -> Tunnel:
        """The SSH connection now."""
        return Tunnel.from_json(self._send("GET", "/v1/tunnel"))

    def connect(self) -> None:
        """Tries to connect now."""
        self._send("POST", "/v1/tunnel/connect")

    def trust(self, fingerprint: str) -> None:
        """Accepts the host key that waits."""
        self._send("POST", "/v1/tunnel/trust", {"fingerprint": fingerprint})

    def forget(self, place: str) -> None:
        """Forgets the host keys accepted for a host."""
        self._send("POST", "/v1/tunnel/forget", {"place": place})

    def answer(self, prompt_id: str, responses: list[str]) -> None:
        """Answers the open prompt."""
        self._send("POST", "/v1/tunnel/answer", {"prompt_id": prompt_id, "responses": responses})

    def events(self) -> Iterator[Message]:
        """What happens from now on, `tunnel` messages among it. Raises UnreachableError where the connection breaks."""
        try:
            yield from parse_messages(self._wire.lines("GET", "/v1/events", silence_s=STREAM_SILENCE_S))
        except Refused as exc:
            raise error_of(exc) from exc

    def log(self, name: str, *, follow: bool, after: str | None = None) -> Iterator[Message]:
        """The messages of a log stream. Raises UnreachableError where the connection breaks."""
        headers = {"Last-Event-ID": after} if after else {}
        path = f"{_path(name)}/logs?follow={str(follow).lower()}"
        try:
            yield from parse_messages(self._wire.lines("GET", path, headers=headers, silence_s=STREAM_SILENCE_S))
        except Refused as exc:
            raise error_of(exc) from exc

    def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> Json:
        last = time.monotonic() + (RESTART_S if method == "GET" else 0)
        while True:
            try:
                answer: Json = self._wire.ask(method, path, body, headers, silence_s=silence_s)
            except Refused as exc:
                raise error_of(exc, path) from exc
            except UnreachableError:
                if time.monotonic() > last:
                    raise
                time.sleep(RESTART_LOOK_S)
                continue
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


def error_of(refused: Refused, path: str = "") -> CommandError:
    """What an answer that is no success means to a person. path: of the request."""
    problem = refused.json()
    if isinstance(problem, dict) and "detail" in problem:
        detail, kind = as_typed(problem, path), str(problem.get("kind", ""))
    else:
        detail, kind = f"{refused.place} answered {refused.status} without words", ""
    if refused.status == 401:
        return UnreachableError(
            "the stack was started with another key than the one in .env; run `make up` again", kind
        )
    if kind == UNKNOWN:
        return NotReadyError(detail, kind)
    return CommandError(detail, kind)


def _path(name: str) -> str:
    return f"/v1/deployments/{quote(name, safe='')}"
