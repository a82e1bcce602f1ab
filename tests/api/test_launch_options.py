"""Every launch option with every nasty value: refused in one clear line, or kept exactly as it was sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_api.new_deployment import new_deployment, resolve_names
from bouchet_core.deployments import LaunchRequest
from bouchet_core.store import Store

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NASTY = [
    "a'; echo x", '"; rm -rf ~', "$(id)", "`id`", "two\nlines", "tab\there", "ünïcode", "日本", "٣:٠٠", "", " ", "-x",
    "--wrap=id", "a b", "a\u0000b", "../../etc", "~", "a" * 300, "\ud800", "%j", "a=b",
]  # fmt: skip
NO_NUMBERS = ["1e9", "NaN", "0x10", "1,5"]
WORDS = ["name", "time", "partition", "quant", "kv_cache_dtype", "account", "qos", "constraint", "model"]
NUMBERS = ["gpus", "nodes", "max_len", "idle_timeout_min"]
GOOD = {
    "name": "mine-2.5_b", "time": "1-06:00:00", "partition": "gpu_h200", "quant": "none", "kv_cache_dtype": "fp8",
    "account": "prio_lab.x", "qos": "fast:1", "constraint": "h200&ib|nvme", "gpus": 2, "nodes": 1, "max_len": 40960,
    "idle_timeout_min": 0, "serve_as": ["opus", "haiku"],
}  # fmt: skip


def kept(store: Store) -> list[str]:
    return [record.id for record in store.page(10, 0)]


def is_one_clear_line(answer: httpx.Response, field: str) -> None:
    assert answer.status_code in (404, 422), answer.text
    detail = answer.json()["detail"]
    assert "\n" not in detail and detail
    assert answer.headers["content-type"] == "application/problem+json"
    assert field.split("_")[0] in detail or answer.json()["kind"] in ("unknown_model", "launch_refused")


@pytest.mark.parametrize("path", ["/v1/deployments", "/v1/deployments/preview"])
@pytest.mark.parametrize("field", [*WORDS, *NUMBERS, "serve_as"])
async def test_nasty_values_are_refused_in_one_line(
    api: httpx.AsyncClient, state: AppState, field: str, path: str
) -> None:
    for value in [*NASTY, *(NO_NUMBERS if field in (*NUMBERS, "time") else [])]:
        sent = [value] if field == "serve_as" else value
        body = json.dumps({"model": "bouchet-qwen3-32b", field: sent})
        is_one_clear_line(await api.post(path, content=body), field)
    assert kept(state.store) == []


@pytest.mark.parametrize("field", NUMBERS)
async def test_numbers_out_of_bounds_are_refused(api: httpx.AsyncClient, field: str) -> None:
    for value in (-1, 10**9, 10**30, 1.5, 2.0, "2", True, [1], {"a": 1}):
        is_one_clear_line(await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b", field: value}), field)


async def test_good_values_are_kept_to_the_letter(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b", **GOOD})).json()
    request = state.store.get(made["id"]).request.model_dump(mode="json")
    assert request == {"like": None, "model": "bouchet-qwen3-32b", **GOOD}


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"gpus": 64}, "nearest that would fit: --partition gpu_h200 --gpus 8"),
        ({"time": "30-00:00:00"}, "nearest that would fit: --partition gpu_h200 --gpus 1 --time 2-00:00:00"),
        ({"partition": "nope"}, "knows no partition 'nope'; it has gpu_h200"),
        ({"gpus": 3, "nodes": 2}, "do not divide among 2 nodes"),
        ({"time": "00:00:10"}, "a minute at least"),
    ],
)
async def test_what_can_never_run_there_is_refused_at_once(
    api: httpx.AsyncClient, state: AppState, wish: dict[str, object], words: str
) -> None:
    answer = await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b", **wish})
    assert (answer.status_code, answer.json()["kind"]) == (422, "launch_refused")
    assert words in answer.json()["detail"]
    assert kept(state.store) == []


async def test_a_preview_of_a_name_that_is_taken_is_refused_as_the_launch_would_be(api: httpx.AsyncClient) -> None:
    made = (await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b"})).json()
    answer = await api.post("/v1/deployments/preview", json={"model": "bouchet-qwen3-32b"})
    assert (answer.status_code, answer.json()["kind"]) == (409, "name_taken")
    assert made["id"] in answer.json()["detail"]


async def test_a_second_one_of_a_model_is_shown_under_its_own_name_alone(
    api: httpx.AsyncClient, state: AppState
) -> None:
    await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b"})
    second = (await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b", "name": "mine"})).json()
    live = [record for record in state.store.live() if record.id != second["id"]]
    wanted = new_deployment(
        LaunchRequest(model="bouchet-qwen3-32b", name="mine"), state.catalog.current(), state.site, "x", NOW
    )
    assert list(resolve_names(wanted, live).names) == second["names"] == ["mine"]
