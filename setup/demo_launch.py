"""The demo model, launched through the api as a person would, and the first question to it through the proxy."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ApiResponseError, LaunchFailedError
from .http import Door
from .progress import Progress, Step

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France? Answer in one sentence."
MAX_TOKENS = 48
READY_TIMEOUT_S = 600
ANSWER_TIMEOUT_S = 90
STOP_TIMEOUT_S = 20
POLL_S = 0.5


@dataclass(frozen=True)
class Live:
    """A deployment, as far as we need it."""

    id: str
    alias: str
    model: str
    phase: str
    ending: str
    reason: str
    progress: str

    @property
    def words(self) -> str:
        """Where it is, for the progress line."""
        said = self.progress or self.reason
        return f"{self.phase}, {said}" if said else self.phase


def parse_deployment(raw: Any) -> Live:
    """Of the api's JSON; a job is one attempt, the last is the current one."""
    jobs = raw.get("jobs") or [{}]
    return Live(
        id=raw["id"],
        alias=raw["names"][0],
        model=raw["model"],
        phase=raw["phase"],
        ending=raw.get("ending") or "",
        reason=raw.get("reason") or "",
        progress=jobs[-1].get("progress") or "",
    )


def ensure_deployment(progress: Progress, api: Door, model: str = DEMO_MODEL) -> Live:
    """A ready deployment of `model`: the live one if there is one, else a new one."""
    with progress.step(f"model {model}") as step:
        deployment = find_live(api, model) or request(api, model)
        return wait_until_ready(api, deployment, step)


def find_live(api: Door, model: str) -> Live | None:
    """The newest deployment of `model` that has not ended."""
    answer = api.ask("GET", "/v1/deployments?live=true")
    if answer.status != 200:
        raise ApiResponseError(f"{api.url}/v1/deployments", answer.detail)
    rows = [parse_deployment(row) for row in answer.body["deployments"]]  # newest first
    return next((row for row in rows if row.model == model and row.phase not in ("ended", "draining")), None)


def request(api: Door, model: str) -> Live:
    """Ask the api for it."""
    answer = api.ask("POST", "/v1/deployments", {"model": model})
    if answer.status != 202:
        raise ApiResponseError(f"{api.url}/v1/deployments", answer.detail)
    return parse_deployment(answer.body)


def wait_until_ready(api: Door, deployment: Live, step: Step) -> Live:
    """Follow it until it answers; LaunchFailedError if it ends or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while deployment.phase != "ready":
        step.say(deployment.words)
        if deployment.phase == "ended":
            raise LaunchFailedError(
                f"{deployment.model} {deployment.ending or 'ended'}: {deployment.reason} "
                f"(`./bouchet logs {deployment.id}` shows more)"
            )
        if time.monotonic() > deadline:
            raise LaunchFailedError(
                f"{deployment.model} is not ready after {READY_TIMEOUT_S} s; it is {deployment.words}"
            )
        time.sleep(POLL_S)
        answer = api.ask("GET", f"/v1/deployments/{deployment.id}")
        if answer.status == 200:
            deployment = parse_deployment(answer.body)
        elif answer.status not in (0, 503):  # a restart of the api is no news about the deployment
            raise ApiResponseError(f"{api.url}/v1/deployments/{deployment.id}", answer.detail)
    step.say("")
    return deployment


def ask_model(progress: Progress, api: Door, proxy: Door, deployment: Live) -> str:
    """The model's answer to the first question, through the proxy.

    After a restart of the machine the record may say `ready` of a job that died with it: Slurm takes minutes to
    notice. So an answer is waited for as long as a start is, and a deployment that ended meanwhile is launched anew.
    """
    with progress.step(f"asking {deployment.alias}") as step:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            answer = proxy.ask("POST", "/v1/messages", question_body(deployment.alias), timeout_s=ANSWER_TIMEOUT_S)
            if answer.status == 200:
                return "".join(block.get("text", "") for block in answer.body["content"]).strip()
            # 529: not ready, or the proxy has not heard yet that it is; 0 and 503: something is being started anew
            if answer.status not in (0, 404, 503, 529) or time.monotonic() > deadline:
                raise ApiResponseError(f"{proxy.url}/v1/messages", answer.detail)
            time.sleep(POLL_S)
            deployment = find_live(api, deployment.model) or request(api, deployment.model)
            step.say(deployment.words)


def stop_all(api: Door) -> None:
    """Cancel every live deployment and wait a little for their ends to be on record; what fails is left as it is."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for row in _live_rows(api):
        api.ask("DELETE", f"/v1/deployments/{row.id}")
    while _live_rows(api) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _live_rows(api: Door) -> list[Live]:
    answer = api.ask("GET", "/v1/deployments?live=true")
    return [parse_deployment(row) for row in answer.body["deployments"]] if answer.status == 200 else []


def question_body(alias: str) -> dict[str, object]:
    """The request that the curl line shows."""
    return {"model": alias, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": QUESTION}]}


def render_curl(proxy_url: str, env_file: Path, alias: str) -> str:
    """Lines to paste into a shell in the project's folder; the key is read from the env file, never printed."""
    return f"""\
. ./{env_file.name}
curl -s {proxy_url}/v1/messages \\
  -H "x-api-key: $BOUCHET_API_KEY" -H 'content-type: application/json' \\
  -d '{json.dumps(question_body(alias))}'"""
