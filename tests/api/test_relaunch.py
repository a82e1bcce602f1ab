"""Records that reproduce an earlier deployment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_api.new_deployment import new_deployment, relaunch
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Placement
from bouchet_core.errors import LaunchRefusedError

MODEL = "Qwen/Qwen3-32B"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PLACEMENT = Placement(partition="gpu_h200", gpus=2, gpu_type="h200", nodes=1, cpus=6, memory_gib=240, walltime_s=21600)
STARTED = Job(
    name="bouchet-aa-1",
    slot=0,
    image="cpu-0.32.0.sif",
    image_sha256="5f0c",
    vllm_version="0.32.0",
    model_revision="c" * 40,
    arguments=("--max-model-len", "4096"),
    placement=PLACEMENT,
)


def earlier(state: AppState, job: Job | None = STARTED, **request: Any) -> Deployment:
    """Return the record of a deployment with this job."""
    record = new_deployment(LaunchRequest(model=MODEL, **request), state.catalog.current(), state.site, "aa", NOW)
    return record.model_copy(update={"jobs": (job,) if job else ()})


def again(state: AppState, record: Deployment, **request: Any) -> Deployment:
    wanted = LaunchRequest(like=record.id, **request)
    return relaunch(record, wanted, state.catalog.current(), state.site, "bb", NOW)


def test_relaunch_pins_image_revision_and_arguments(state: AppState) -> None:
    new = again(state, earlier(state, max_len=8192))
    assert new.pins is not None
    assert (new.pins.deployment, new.pins.image, new.pins.image_sha256) == ("aa", "cpu-0.32.0", "5f0c")
    assert (new.pins.model_revision, new.pins.arguments) == ("c" * 40, STARTED.arguments)
    request = new.request
    assert (request.partition, request.gpus, request.time, request.max_len) == ("gpu_h200", 2, "06:00:00", 8192)
    assert (new.id, new.model, new.names) == ("bb", MODEL, ("bouchet-qwen3-32b", MODEL))


def test_relaunch_takes_names_and_limits_of_the_request(state: AppState) -> None:
    new = again(state, earlier(state), name="mine", time="01:00:00", idle_timeout_min=0)
    assert (new.alias, new.request.time, new.request.idle_timeout_min) == ("mine", "01:00:00", 0)


def test_relaunch_of_one_that_never_started_vllm_is_refused(state: AppState) -> None:
    for job in (None, STARTED.model_copy(update={"image": None})):
        with pytest.raises(LaunchRefusedError, match="never started vLLM"):
            again(state, earlier(state, job))


@pytest.mark.parametrize(
    ("request_fields", "option"),
    [({"max_len": 4096}, "--max-len"), ({"gpus": 4}, "--gpus"), ({"model": "other/model"}, "model other/model")],
)
def test_relaunch_with_a_change_that_is_not_reproducible_is_refused(
    state: AppState, request_fields: dict[str, Any], option: str
) -> None:
    with pytest.raises(LaunchRefusedError, match=option):
        again(state, earlier(state), **request_fields)


def test_relaunch_on_a_partition_that_is_gone_is_refused(state: AppState) -> None:
    gone = STARTED.model_copy(update={"placement": PLACEMENT.model_copy(update={"partition": "gpu_old"})})
    with pytest.raises(LaunchRefusedError, match="cannot be reproduced"):
        again(state, earlier(state, gone))


def test_relaunch_on_another_gpu_type_is_refused(state: AppState) -> None:
    other = STARTED.model_copy(update={"placement": PLACEMENT.model_copy(update={"gpu_type": "b200"})})
    with pytest.raises(LaunchRefusedError, match="b200"):
        again(state, earlier(state, other))


def test_relaunch_under_a_name_of_claude_is_refused(state: AppState) -> None:
    with pytest.raises(LaunchRefusedError, match="claude-"):
        again(state, earlier(state), name="claude-x")


async def test_relaunch_over_http_is_recorded_and_unknown_one_is_404(api: httpx.AsyncClient, state: AppState) -> None:
    state.store.create(earlier(state))
    made = await api.post("/v1/deployments", json={"like": "aa", "name": "mine"})
    assert made.status_code == 202, made.text
    assert state.store.get(made.json()["id"]).pins is not None
    unknown = await api.post("/v1/deployments", json={"like": "zz"})
    assert (unknown.status_code, unknown.json()["kind"]) == (404, "unknown_deployment")
    assert "local record" in unknown.json()["detail"]
