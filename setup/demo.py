"""The demo cluster: provisioned by demo/provision.py, its model launched through the API and asked a first question."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .command import run
from .docker.engine import Compose
from .docker.stack import Stack
from .errors import ApiResponseError, LaunchFailedError
from .files.env_file import EnvSettings
from .http import HttpClient
from .progress import Progress, Step

# the demo's site file by the CPU type of its nodes, which are containers of this machine's engine
SITES = {"x86_64": "demo", "aarch64": "demo-arm64"}


def with_site_for(settings: EnvSettings, cpu: str) -> EnvSettings:
    """Return the settings with the demo's site file for that CPU type; unchanged with a cluster or another site."""
    if settings.host or settings.site not in SITES.values():
        return settings
    return replace(settings, values={**settings.values, "BOUCHET_SITE": SITES[cpu]})


def cpu_of(site: str) -> str:
    """Return the CPU type of the demo's nodes with that site file."""
    return next((cpu for cpu, name in SITES.items() if name == site), "x86_64")


def stage(progress: Progress, stack: Stack, compose: Compose) -> None:
    """Fetch what the nodes need and cannot fetch. It needs no container, so it runs while images are built."""
    _provision(progress, stack, compose, "stage", "demo: fetching packages and models")


def install(progress: Progress, stack: Stack, compose: Compose) -> None:
    """Build the SIF and put the model in place, in Slurm jobs of the demo cluster."""
    _provision(progress, stack, compose, "install", "demo: Apptainer image and model on the cluster")


def _provision(progress: Progress, stack: Stack, compose: Compose, verb: str, title: str) -> None:
    with progress.step(title) as step:
        run(
            [sys.executable, "-m", "demo.provision", verb],
            env={
                **compose.env,
                "COMPOSE": shlex.join(compose.prefix),
                "DEMO_CPU": cpu_of(compose.env.get("BOUCHET_SITE", "")),
                "PYTHONUNBUFFERED": "1",
            },
            cwd=stack.root,
            on_line=lambda line: step.say(line[-70:]),
        )


DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France? Answer in one sentence."
MAX_TOKENS = 48
READY_TIMEOUT_S = 600
ANSWER_TIMEOUT_S = 90
STOP_TIMEOUT_S = 20
POLL_S = 0.5


@dataclass(frozen=True)
class LiveDeployment:
    """A deployment, as far as we need it."""

    id: str
    alias: str
    model: str
    phase: str
    ending: str
    reason: str
    progress: str

    @property
    def description(self) -> str:
        """Phase and detail, for the progress line."""
        detail = self.progress or self.reason
        return f"{self.phase}, {detail}" if detail else self.phase


def parse_deployment(raw: Any) -> LiveDeployment:
    """Parse the API's JSON. A job is one attempt; the last one is current."""
    jobs = raw.get("jobs") or [{}]
    return LiveDeployment(
        id=raw["id"],
        alias=raw["names"][0],
        model=raw["model"],
        phase=raw["phase"],
        ending=raw.get("ending") or "",
        reason=raw.get("reason") or "",
        progress=jobs[-1].get("progress") or "",
    )


def ensure_deployment(progress: Progress, api: HttpClient, model: str = DEMO_MODEL) -> LiveDeployment:
    """Return a ready deployment of `model`: the live one if there is one, else a new one."""
    with progress.step(f"model {model}") as step:
        deployment = find_live(api, model) or request(api, model)
        return wait_until_ready(api, deployment, step)


def find_live(api: HttpClient, model: str) -> LiveDeployment | None:
    """Return the newest deployment of `model` that has not ended."""
    answer = api.ask("GET", "/v1/deployments?live=true")
    if answer.status != 200:
        raise ApiResponseError(f"{api.url}/v1/deployments", answer.detail)
    rows = [parse_deployment(row) for row in answer.body["deployments"]]  # newest first
    return next((row for row in rows if row.model == model and row.phase not in ("ended", "draining")), None)


def request(api: HttpClient, model: str) -> LiveDeployment:
    """Request a deployment of `model` from the API."""
    answer = api.ask("POST", "/v1/deployments", {"model": model})
    if answer.status != 202:
        raise ApiResponseError(f"{api.url}/v1/deployments", answer.detail)
    return parse_deployment(answer.body)


def wait_until_ready(api: HttpClient, deployment: LiveDeployment, step: Step) -> LiveDeployment:
    """Follow it until it answers; LaunchFailedError if it ends or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while deployment.phase != "ready":
        step.say(deployment.description)
        if deployment.phase == "ended":
            raise LaunchFailedError(
                f"{deployment.model} {deployment.ending or 'ended'}: {deployment.reason} "
                f"(`./bouchet logs {deployment.id}` shows more)"
            )
        if time.monotonic() > deadline:
            raise LaunchFailedError(
                f"{deployment.model} is not ready after {READY_TIMEOUT_S} s; its state is: {deployment.description}"
            )
        time.sleep(POLL_S)
        answer = api.ask("GET", f"/v1/deployments/{deployment.id}")
        if answer.status == 200:
            deployment = parse_deployment(answer.body)
        elif answer.status not in (0, 503):  # a restart of the api is no news about the deployment
            raise ApiResponseError(f"{api.url}/v1/deployments/{deployment.id}", answer.detail)
    step.say("")
    return deployment


def ask_model(progress: Progress, api: HttpClient, proxy: HttpClient, deployment: LiveDeployment) -> str:
    """Return the model's answer to the first question, through the proxy.

    After a restart of the machine the record may be `ready` for a job that died with it: Slurm takes minutes to
    notice. So this waits as long as for a start, and launches again if the deployment ended meanwhile.
    """
    with progress.step(f"asking {deployment.alias}") as step:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            answer = proxy.ask("POST", "/v1/messages", question_body(deployment.alias), timeout_s=ANSWER_TIMEOUT_S)
            if answer.status == 200:
                return "".join(block.get("text", "") for block in answer.body["content"]).strip()
            # 529: not ready, or the proxy does not know yet that it is; 0 and 503: a service is restarting
            if answer.status not in (0, 404, 503, 529) or time.monotonic() > deadline:
                raise ApiResponseError(f"{proxy.url}/v1/messages", answer.detail)
            time.sleep(POLL_S)
            deployment = find_live(api, deployment.model) or request(api, deployment.model)
            step.say(deployment.description)


def stop_all(api: HttpClient) -> None:
    """Cancel every live deployment and wait a little for their ends to be on record; what fails is left as it is."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for row in _live_rows(api):
        api.ask("DELETE", f"/v1/deployments/{row.id}")
    while _live_rows(api) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _live_rows(api: HttpClient) -> list[LiveDeployment]:
    answer = api.ask("GET", "/v1/deployments?live=true")
    return [parse_deployment(row) for row in answer.body["deployments"]] if answer.status == 200 else []


def question_body(alias: str) -> dict[str, object]:
    """Make the request that the curl line shows."""
    return {"model": alias, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": QUESTION}]}


def render_curl(proxy_url: str, env_file: Path, alias: str) -> str:
    """Render lines to paste into a shell in the project's folder; the key is read from the env file, never printed."""
    return f"""\
. ./{env_file.name}
curl -s {proxy_url}/v1/messages \\
  -H "x-api-key: $BOUCHET_API_KEY" -H 'content-type: application/json' \\
  -d '{json.dumps(question_body(alias))}'"""
