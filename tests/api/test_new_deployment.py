"""Every launch option with hostile values: refused in one line, or recorded exactly as sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_api.new_deployment import new_deployment, resolve_names
from bouchet_core.config.catalog import Catalog
from bouchet_core.deployments import LaunchRequest
from bouchet_core.store import Store

ALIAS = "bouchet-qwen3-32b"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOSTILE = [
    "a'; echo x", '"; rm -rf ~', "$(id)", "`id`", "two\nlines", "tab\there", "ünïcode", "日本", "٣:٠٠", "", " ", "-x",
    "--wrap=id", "a b", "a\u0000b", "../../etc", "~", "a" * 300, "\ud800", "%j", "a=b",
]  # fmt: skip
NOT_NUMBERS = ["1e9", "NaN", "0x10", "1,5"]
TEXT_FIELDS = ["name", "time", "partition", "quant", "kv_cache_dtype", "account", "qos", "constraint", "model"]
NUMBER_FIELDS = ["gpus", "nodes", "max_len", "idle_timeout_min"]
GOOD = {
    "name": "mine-2.5_b", "time": "1-06:00:00", "partition": "gpu_h200", "quant": "none", "kv_cache_dtype": "fp8",
    "account": "prio_lab.x", "qos": "fast:1", "constraint": "h200&ib|nvme", "gpus": 2, "nodes": 1, "max_len": 40960,
    "idle_timeout_min": 0, "serve_as": ["opus", "haiku"],
}  # fmt: skip


def recorded(store: Store) -> list[str]:
    return [record.id for record in store.page(10, 0)]


def assert_refused_in_one_line(answer: httpx.Response, field: str) -> None:
    assert answer.status_code in (404, 422), answer.text
    detail = answer.json()["detail"]
    assert "\n" not in detail and detail
    assert answer.headers["content-type"] == "application/problem+json"
    assert field.split("_")[0] in detail or answer.json()["kind"] in ("unknown_model", "launch_refused")


@pytest.mark.parametrize("field", [*TEXT_FIELDS, *NUMBER_FIELDS, "serve_as"])
async def test_hostile_value_is_refused_in_one_line(api: httpx.AsyncClient, state: AppState, field: str) -> None:
    for value in [*HOSTILE, *(NOT_NUMBERS if field in (*NUMBER_FIELDS, "time") else [])]:
        sent = [value] if field == "serve_as" else value
        body = json.dumps({"model": ALIAS, field: sent})
        for path in ("/v1/deployments", "/v1/deployments/preview"):
            assert_refused_in_one_line(await api.post(path, content=body), field)
    assert recorded(state.store) == []


@pytest.mark.parametrize("field", NUMBER_FIELDS)
async def test_number_out_of_bounds_is_refused(api: httpx.AsyncClient, field: str) -> None:
    for value in (-1, 10**9, 10**30, 1.5, "2", True, [1], {"a": 1}):
        assert_refused_in_one_line(await api.post("/v1/deployments", json={"model": ALIAS, field: value}), field)


async def test_good_values_are_recorded_as_sent(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/deployments", json={"model": ALIAS, **GOOD})).json()
    request = state.store.get(made["id"]).request.model_dump(mode="json")
    assert request == {"like": None, "policy": None, "notify": False, "model": ALIAS, **GOOD}


@pytest.mark.parametrize(
    "request_fields",
    [{"gpus": 64}, {"time": "30-00:00:00"}, {"partition": "nope"}, {"gpus": 3, "nodes": 2}, {"time": "00:00:10"}],
)
async def test_request_that_no_partition_fits_is_refused(
    api: httpx.AsyncClient, state: AppState, request_fields: dict[str, object]
) -> None:
    answer = await api.post("/v1/deployments", json={"model": ALIAS, **request_fields})
    assert (answer.status_code, answer.json()["kind"]) == (422, "launch_refused")
    assert recorded(state.store) == []


async def test_request_over_the_limit_is_refused_with_the_nearest_that_fits(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/deployments", json={"model": ALIAS, "gpus": 64})
    assert "--partition gpu_h200 --gpus 8" in answer.json()["detail"]


async def test_name_that_begins_with_claude_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/deployments", json={"model": ALIAS, "name": "claude-opus"})
    assert (answer.status_code, answer.json()["kind"]) == (422, "launch_refused")
    assert "--as" in answer.json()["detail"]


async def test_resolve_names_gives_the_names_of_a_launch(api: httpx.AsyncClient, state: AppState) -> None:
    await api.post("/v1/deployments", json={"model": ALIAS})
    second = (await api.post("/v1/deployments", json={"model": ALIAS, "name": "mine"})).json()
    live = [record for record in state.store.live() if record.id != second["id"]]
    request = LaunchRequest(model=ALIAS, name="mine")
    new = new_deployment(request, state.catalog.current(), state.site, "x", NOW)
    assert list(resolve_names(new, live).names) == second["names"] == ["mine"]


def test_new_deployment_reads_the_catalog_once(state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    find = Catalog.find

    def counting(catalog: Catalog, name: str) -> object:
        found.append(name)
        return find(catalog, name)

    monkeypatch.setattr(Catalog, "find", counting)
    new_deployment(LaunchRequest(model=ALIAS), state.catalog.current(), state.site, "x", NOW)
    assert found == [ALIAS]
