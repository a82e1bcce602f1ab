"""/v1/models: the catalog, live deployments and the disk listing."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from bouchet_api import model_status
from bouchet_api.dependencies import AppState
from bouchet_core.batch_jobs import BatchJobState, DiskListing, DiskModel

from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import queued_tasks
from tests.waiting import wait_for

QWEN = "Qwen/Qwen3-32B"
LIST_MODELS = [("list_models", "now")]


def listing(qwen: DiskModel | None = None, age: timedelta = timedelta()) -> DiskListing:
    models = {QWEN: qwen} if qwen else {}
    return DiskListing(models=models, free_bytes=5, listed_at=datetime.now(UTC) - age)


READY = DiskModel(state="ready", bytes=9, total_bytes=9, revision="c" * 40)


def disks(answer: httpx.Response) -> dict[str, dict[str, object]]:
    """Return each model's disk status by its id."""
    return {model["id"]: model["disk"] for model in answer.json()["models"]}


async def test_models_show_their_live_deployments(api: httpx.AsyncClient) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    body = (await api.get("/v1/models?refresh=false")).json()
    assert body["default"] == "Qwen/Qwen3-Coder-Next-FP8"
    live = {model["id"]: model["live"] for model in body["models"]}
    assert live[QWEN] == [{"id": made["id"], "name": "bouchet-qwen3-32b", "phase": "requested"}]
    assert live["Qwen/Qwen3-Coder-Next-FP8"] == []


async def test_disk_is_unknown_at_once_while_the_tunnel_is_down(
    api: httpx.AsyncClient, state: AppState, gateway: FakeGateway
) -> None:
    gateway.tunnel = {**gateway.tunnel, "state": "down"}
    disk = disks(await api.get("/v1/models"))[QWEN]
    assert (disk["state"], disk["percent"], disk["listed_at"]) == ("unknown", None, None)
    assert queued_tasks(state.store) == []


async def test_disk_is_unknown_without_gateway(api: httpx.AsyncClient, state: AppState, gateway: FakeGateway) -> None:
    gateway.stop()
    assert disks(await api.get("/v1/models"))[QWEN]["state"] == "unknown"
    assert queued_tasks(state.store) == []


async def test_first_listing_is_requested_once_and_awaited(
    api: httpx.AsyncClient, state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_status, "WAIT_S", 60.0)

    def answer_the_task() -> None:
        wait_for(lambda: queued_tasks(state.store))
        state.store.downloads.keep_disk(listing(READY))

    worker = threading.Thread(target=answer_the_task)
    worker.start()
    answer = await api.get("/v1/models")
    worker.join()
    found = disks(answer)
    assert (found[QWEN]["state"], found[QWEN]["percent"]) == ("ready", 100)
    assert {disk["state"] for name, disk in found.items() if name != QWEN} == {"missing"}
    assert answer.json()["free_bytes"] == 5
    assert queued_tasks(state.store) == LIST_MODELS
    await api.get("/v1/models")
    assert queued_tasks(state.store) == LIST_MODELS


async def test_old_listing_is_returned_when_no_new_one_comes(
    api: httpx.AsyncClient, state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_status, "WAIT_S", 0.1)
    state.store.downloads.keep_disk(listing(READY, timedelta(hours=1)))
    assert disks(await api.get("/v1/models?refresh=false"))[QWEN]["state"] == "ready"
    assert queued_tasks(state.store) == []
    assert disks(await api.get("/v1/models"))[QWEN]["state"] == "ready"
    assert queued_tasks(state.store) == LIST_MODELS


async def test_live_download_counts_more_than_the_listing(api: httpx.AsyncClient, state: AppState) -> None:
    state.store.downloads.keep_disk(listing())
    made = (await api.post("/v1/models/download", json={"model": QWEN})).json()["id"]
    fields = {"state": BatchJobState.RUNNING, "bytes": 43, "total_bytes": 100}
    state.store.downloads.update(made, lambda old: old.changed(datetime.now(UTC), **fields))
    disk = disks(await api.get("/v1/models"))[QWEN]
    assert (disk["state"], disk["percent"], disk["download"]) == ("partial", 43, made)
