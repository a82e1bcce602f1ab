"""Asking for deployments, looking at them and ending them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import httpx
from bouchet_api.dependencies import AppState
from bouchet_core.deployments import Ending, Phase
from bouchet_core.store import Store
from bouchet_core.tasks import MODULE, TaskName
from rq import Queue

from tests.conftest import RedisServer

QWEN = "Qwen/Qwen3-32B"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def queued(store: Store) -> list[tuple[str, tuple[str, ...]]]:
    """What lies in the worker's queue, as a worker would read it."""
    connection = store.queue_connection()
    jobs = Queue("tasks", connection=connection, serializer="json").jobs
    found = [(job.func_name, tuple(job.args)) for job in jobs]
    connection.close()
    return found


def end(store: Store, identity: str) -> None:
    store.update(identity, lambda d: d.moved(Phase.ENDED, NOW, reason="done", ending=Ending.COMPLETED))


async def test_a_launch_is_on_record_and_in_the_queue(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b", "gpus": 1, "time": "06:00:00"})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"/v1/deployments/{made['id']}"
    assert made["names"] == ["bouchet-qwen3-32b", QWEN]
    assert made["phase"] == "requested"
    assert made["traits"]["thinking"] == "off"
    assert len(made["id"]) == 12
    assert made["id"] == made["id"].lower()
    assert state.store.get(made["id"]).request.gpus == 1
    assert queued(state.store) == [(MODULE + TaskName.SUBMIT, (made["id"],))]
    assert (await api.get(answer.headers["location"])).json() == made


async def test_a_deployment_is_found_by_any_of_its_names(api: httpx.AsyncClient) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    for name in ("bouchet-qwen3-32b", QWEN, QWEN.replace("/", "%2F")):
        assert (await api.get(f"/v1/deployments/{name}")).json() == made


async def test_an_unknown_model_is_404_and_names_the_nearest(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/deployments", json={"model": "Qwen/Qwen3-23B"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["kind"] == "unknown_model"
    assert QWEN in answer.json()["near"]
    assert state.store.page() == []


async def test_a_name_is_taken_until_its_owner_ends(api: httpx.AsyncClient, state: AppState) -> None:
    first = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    second = await api.post("/v1/deployments", json={"model": QWEN})
    assert second.status_code == 409
    assert second.json()["kind"] == "name_taken"
    assert first["id"] in second.json()["detail"]
    assert len(queued(state.store)) == 1
    end(state.store, first["id"])
    assert (await api.post("/v1/deployments", json={"model": QWEN})).status_code == 202


async def test_with_a_name_of_its_own_a_second_one_of_a_model_may_live(api: httpx.AsyncClient) -> None:
    await api.post("/v1/deployments", json={"model": QWEN})
    second = await api.post("/v1/deployments", json={"model": QWEN, "name": "second"})
    assert second.status_code == 202
    assert second.json()["names"] == ["second"]
    third = await api.post("/v1/deployments", json={"model": QWEN, "name": "second"})
    assert third.status_code == 409


async def test_names_that_mislead_claude_code_are_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/deployments", json={"model": QWEN, "name": "claude-opus"})
    assert answer.status_code == 422
    assert "--as" in answer.json()["detail"]


async def test_the_same_idempotency_key_makes_one_deployment(api: httpx.AsyncClient, state: AppState) -> None:
    headers = {"Idempotency-Key": "once-1"}
    first = await api.post("/v1/deployments", json={"model": QWEN}, headers=headers)
    again = await api.post("/v1/deployments", json={"model": QWEN}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(state.store.page()) == 1
    # asked for again, in case the first task was lost; the worker submits once
    assert set(queued(state.store)) == {(MODULE + TaskName.SUBMIT, (first.json()["id"],))}
    other = await api.post("/v1/deployments", json={"model": QWEN, "gpus": 2}, headers=headers)
    assert other.status_code == 422
    assert other.json()["kind"] == "idempotency_key_reused"


async def test_deleting_asks_the_worker_and_is_repeatable(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    first = await api.delete(f"/v1/deployments/{made['id']}")
    again = await api.delete("/v1/deployments/bouchet-qwen3-32b")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["stop_requested_at"] == again.json()["stop_requested_at"] is not None
    assert queued(state.store)[1:] == [(MODULE + TaskName.CANCEL, (made["id"],))] * 2
    end(state.store, made["id"])
    gone = await api.delete(f"/v1/deployments/{made['id']}")
    assert (gone.status_code, gone.json()["phase"]) == (200, "ended")
    assert len(queued(state.store)) == 3


async def test_an_unknown_deployment_is_404(api: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        answer = await api.request(method, "/v1/deployments/nosuch")
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_deployment")


async def test_lists_are_paged_newest_first(api: httpx.AsyncClient, state: AppState) -> None:
    ids = []
    for name in ("one", "two", "three"):
        made = await api.post("/v1/deployments", json={"model": QWEN, "name": name})
        ids.append(made.json()["id"])
    end(state.store, ids[1])
    page = (await api.get("/v1/deployments", params={"limit": 2})).json()
    assert [d["id"] for d in page["deployments"]] == [ids[2], ids[1]]
    rest = (await api.get("/v1/deployments", params={"limit": 2, "offset": page["next_offset"]})).json()
    assert ([d["id"] for d in rest["deployments"]], rest["next_offset"]) == ([ids[0]], None)
    live = (await api.get("/v1/deployments", params={"live": True})).json()
    assert [d["id"] for d in live["deployments"]] == [ids[2], ids[0]]


async def test_models_show_what_is_live(api: httpx.AsyncClient) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    body = (await api.get("/v1/models")).json()
    assert body["default"] == "Qwen/Qwen3-Coder-Next-FP8"
    live = {model["id"]: model["live"] for model in body["models"]}
    assert live[QWEN] == [{"id": made["id"], "name": "bouchet-qwen3-32b", "phase": "requested"}]
    assert live["Qwen/Qwen3-Coder-Next-FP8"] == []


async def test_an_edited_catalog_counts_at_once_and_a_broken_one_is_named(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    catalog = tmp_path / "models.yaml"
    catalog.write_text("models:\n  a/b: {alias: new, window: 4096}\n")
    body = (await api.get("/v1/models")).json()
    assert [model["id"] for model in body["models"]] == ["a/b"]
    catalog.write_text("models:\n  a/b: {alias: new, windou: 4096}\n")
    answer = await api.get("/v1/models")
    assert (answer.status_code, answer.json()["kind"]) == (500, "configuration")
    assert "models.yaml:2" in answer.json()["detail"]


async def test_without_redis_it_is_503_and_says_so(api: httpx.AsyncClient, redis_server: RedisServer) -> None:
    redis_server.stop()
    answer = await api.post("/v1/deployments", json={"model": QWEN})
    assert (answer.status_code, answer.json()["kind"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert (await api.get("/healthz")).status_code == 503
