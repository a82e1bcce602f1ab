"""The API's messages to people, compared with tests/contracts/golden/messages/api.txt.

Run with UPDATE_GOLDEN=1 to write the file again after a message has changed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_api.auth import access_problem
from bouchet_api.dashboard.sessions import SessionBook
from bouchet_api.dashboard.sign_outs import SignOuts
from bouchet_api.dependencies import AppState
from bouchet_api.doctor import run_checks, tunnel_check
from bouchet_api.new_deployment import RECORD_REQUIRED, new_deployment, relaunch
from bouchet_api.problems import Problem
from bouchet_api.task_client import TaskFailedError, UnknownTaskError, WorkerTimeoutError, failure_reason
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Placement
from bouchet_core.doctor import DoctorCheck
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.tunnel import TunnelState, TunnelStatus
from starlette.datastructures import Headers

from tests.fakes.gateway_api import FakeGateway

GOLDEN = Path(__file__).parents[1] / "contracts" / "golden" / "messages" / "api.txt"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MODEL = "Qwen/Qwen3-32B"
LOCAL = {"host": "localhost", "x-api-key": "key"}
BODIES: tuple[Any, ...] = (
    {},
    {"model": "m", "modle": 1},
    {"model": "m", "colour": 1},
    {"model": "m", "gpus": 0, "name": "Ä"},
    {"model": "m", "time": "six hours"},
    {"model": "m", "partition": "a b"},
    {"model": "m", "serve_as": ["sonet"]},
    [],
)
HEADERS: tuple[dict[str, str], ...] = (
    {"host": "evil.example"},
    {**LOCAL, "origin": "https://evil.example"},
    {"host": "localhost"},
    {**LOCAL, "transfer-encoding": "chunked"},
    {**LOCAL, "content-length": "300000"},
)


def refusal(headers: dict[str, str], state: AppState) -> Problem | None:
    """Return why a request with these headers is refused."""
    return access_problem("GET", "/v1/keys", Headers(headers), SessionBook("key", SignOuts(state.store.sign_outs)))


async def test_messages_match_the_golden_file(api: httpx.AsyncClient, state: AppState, gateway: FakeGateway) -> None:
    sections = {
        "access": [problem.detail for headers in HEADERS if (problem := refusal(headers, state))],
        "requests": [message async for message in request_messages(api, state)],
        "tasks": list(task_messages()),
        "launch": list(launch_messages(state)),
        "doctor: tunnel": [*map(shown, tunnel_checks())],
        "doctor: no worker": [*map(shown, run_checks(state))],
    }
    gateway.offer("SHA256:abc")
    sections["doctor: unknown host key"] = [*map(shown, run_checks(state))]
    text = "\n".join("\n".join([f"# {title}", *messages, ""]) for title, messages in sections.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def shown(check: DoctorCheck) -> str:
    return f"{check.area}, {check.name}: {check.verdict}: {check.message}" + (f" -> {check.fix}" if check.fix else "")


async def request_messages(api: httpx.AsyncClient, state: AppState) -> AsyncIterator[str]:
    for body in BODIES:
        yield (await api.post("/v1/deployments", json=body)).json()["detail"]
    yield (await api.post("/v1/deployments", content=b"{")).json()["detail"]
    for params in ({"since": "yesterday"}, {"by": "colour"}):
        yield (await api.get("/v1/usage", params=params)).json()["detail"]
    yield (await api.get("/v1/events", headers={"Last-Event-ID": "x"})).json()["detail"]
    yield (await api.get("/v1/nowhere")).json()["detail"]
    yield (await api.put("/v1/keys")).json()["detail"]
    yield (await api.post("/v1/keys", json={"name": "owner"})).json()["detail"]
    yield RECORD_REQUIRED
    once = {"Idempotency-Key": "k"}
    await api.post("/v1/deployments", json={"model": MODEL}, headers=once)
    yield (await api.post("/v1/deployments", json={"model": MODEL, "gpus": 2}, headers=once)).json()["detail"]
    for identity, log in (("without-log", None), ("removed-log", "/data/bouchet/logs/7.log")):
        job = Job(name="j", slot=0, slurm_id=7, log=log, kept_until=datetime(2026, 1, 2, tzinfo=UTC))
        state.store.create(record(state, identity, job))
        yield (await api.get(f"/v1/deployments/{identity}/logs?follow=false")).json()["detail"]


def record(state: AppState, identity: str, *jobs: Job) -> Deployment:
    request = LaunchRequest(model=MODEL, name=identity)
    made = new_deployment(request, state.catalog.current(), state.site, identity, NOW)
    return made.model_copy(update={"jobs": jobs, "names": (identity,), "phase": Phase.QUEUED})


def task_messages() -> Iterator[str]:
    yield str(WorkerTimeoutError("preview", 20.0))
    yield str(UnknownTaskError("5f0c"))
    yield str(TaskFailedError("tunnel_down", "no SSH connection: the worker's own message"))
    yield failure_reason("")
    yield failure_reason("rq.exceptions.AbandonedJobError: Moved to the FailedJobRegistry")


def launch_messages(state: AppState) -> Iterator[str]:
    place = Placement(partition="gpu_h200", gpus=1, gpu_type="h200", nodes=1, cpus=6, memory_gib=240, walltime_s=3600)
    job = Job(name="j", slot=0, image="cpu.sif", image_sha256="5f0c", placement=place)
    other_gpu = job.model_copy(update={"placement": place.model_copy(update={"gpu_type": "b200"})})
    for earlier, fields in (
        (record(state, "aa"), {}),
        (record(state, "aa", job), {"gpus": 4, "max_len": 4096}),
        (record(state, "aa", job), {"model": "other/model"}),
        (record(state, "aa", job), {"name": "claude-x"}),
        (record(state, "aa", other_gpu), {}),
    ):
        request = LaunchRequest.model_validate({"like": "aa", **fields})
        with pytest.raises(LaunchRefusedError) as caught:
            relaunch(earlier, request, state.catalog.current(), state.site, "bb", NOW)
        yield str(caught.value)


def tunnel_checks() -> Iterator[DoctorCheck]:
    for state in TunnelState:
        yield tunnel_check(TunnelStatus(state=state, host="bouchet", since=NOW, detail="no route"))
    yield tunnel_check(TunnelStatus(state=TunnelState.UP, host="bouchet", since=NOW, round_trip_ms=13.6, reconnects=2))
